// What the daemon takes from a client's socket: bytes and credentials, never a descriptor.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <iterator>

#include "daemon/control/packet.h"

namespace booster::daemon::control {
namespace {

class PacketTest : public testing::Test {
 protected:
  PacketTest() {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    mine_ = UniqueFd(ends[0]);
    theirs_ = UniqueFd(ends[1]);
    const int on = 1;
    EXPECT_EQ(::setsockopt(mine_.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on), 0);
  }

  /// Sends one byte with `count` descriptors, as a client does. 0 or errno.
  int send_with(size_t count) {
    char byte = 'x';
    iovec iov{&byte, 1};
    alignas(cmsghdr) char control[CMSG_SPACE(16 * sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &iov;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(count * sizeof(int));
    for (size_t i = 0; i < count; ++i) {
      const int fd = theirs_.get();
      std::memcpy(CMSG_DATA(header) + i * sizeof fd, &fd, sizeof fd);
    }
    return ::sendmsg(theirs_.get(), &message, 0) == 1 ? 0 : errno;
  }

  static auto open_descriptors() {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
  }

  UniqueFd mine_;
  UniqueFd theirs_;
};

TEST_F(PacketTest, BytesComeWithTheSender) {
  ASSERT_EQ(::send(theirs_.get(), "hello", 5, 0), 5);
  const Packet packet = receive(mine_.get());
  ASSERT_EQ(packet.kind, Packet::Kind::kData);
  EXPECT_EQ(std::string(packet.bytes.data(), packet.size), "hello");
  EXPECT_EQ(packet.sender, ::getpid());
  EXPECT_FALSE(packet.truncated);
  EXPECT_EQ(receive(mine_.get()).kind, Packet::Kind::kNone);
  theirs_.reset();
  EXPECT_EQ(receive(mine_.get()).kind, Packet::Kind::kEnd);
}

TEST_F(PacketTest, DescriptorsAreNotTakenAndTold) {
  const auto before = open_descriptors();
  for (const size_t count : {1U, 2U, 16U}) {
    ASSERT_EQ(send_with(count), 0);
    const Packet packet = receive(mine_.get());
    EXPECT_EQ(packet.kind, Packet::Kind::kData);
    EXPECT_TRUE(packet.truncated) << count;
    EXPECT_EQ(packet.sender, ::getpid());
    EXPECT_EQ(open_descriptors(), before) << count;
  }
}

TEST_F(PacketTest, NewerKernelsRefuseThemForTheDaemon) {
  refuse_descriptors(mine_.get());
  const int error = send_with(1);
  if (error == 0) GTEST_SKIP() << "this kernel has no SO_PASSRIGHTS";
  EXPECT_EQ(error, EPERM);
  ASSERT_EQ(::send(theirs_.get(), "x", 1, 0), 1);
  EXPECT_EQ(receive(mine_.get()).kind, Packet::Kind::kData);
}

}  // namespace
}  // namespace booster::daemon::control

// Receiving and sending packets with ancillary data.
#include "daemon/control/packet.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>

// linux/socket.h of 6.16; the headers of Debian 12 do not know it.
#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif

namespace booster::daemon::control {

Packet receive(int socket) {
  Packet packet;
  // Room for credentials and nothing else: the kernel installs no descriptor that has no room.
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred))];
  iovec iov{packet.bytes.data(), packet.bytes.size()};
  msghdr message{};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t n = 0;
  do {
    n = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  } while (n < 0 && errno == EINTR);
  if (n < 0) {
    packet.kind = errno == EAGAIN ? Packet::Kind::kNone : Packet::Kind::kEnd;
    return packet;
  }
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_CREDENTIALS) {
    ucred credentials{};
    std::memcpy(&credentials, CMSG_DATA(header), sizeof credentials);
    packet.sender = credentials.pid;
    packet.sender_uid = credentials.uid;
  }
  // An empty packet and the end of the connection look alike; no message is empty.
  packet.kind = n == 0 ? Packet::Kind::kEnd : Packet::Kind::kData;
  packet.size = static_cast<size_t>(n);
  packet.truncated = (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0;
  return packet;
}

bool receive_exactly(int socket, void* bytes, size_t size, UniqueFd& descriptor) {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  iovec iov{bytes, size};
  msghdr message{};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t n = 0;
  do {
    n = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (n < 0 && errno == EINTR);
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (n >= 0 && header && header->cmsg_type == SCM_RIGHTS) {
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
    descriptor.reset(fd);
  }
  return n >= 0 && static_cast<size_t>(n) == size;
}

bool receive_with_descriptor(int socket, void* bytes, size_t size, UniqueFd& descriptor) {
  return receive_exactly(socket, bytes, size, descriptor) && descriptor;
}

void refuse_descriptors(int socket) {
  const int off = 0;
  ::setsockopt(socket, SOL_SOCKET, SO_PASSRIGHTS, &off, sizeof off);  // best effort, see above
}

bool send(int socket, const std::string& bytes, int descriptor) {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  iovec iov{const_cast<char*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  if (descriptor >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
  }
  return ::sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL) ==
         static_cast<ssize_t>(bytes.size());
}

}  // namespace booster::daemon::control

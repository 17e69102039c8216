// What the kernel says about mounts and descriptors, parsed.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <string>

#include "daemon/control/fdinfo_readers.h"
#include "daemon/control/mountinfo.h"
#include "daemon/control/peer.h"

namespace booster::daemon::control {
namespace {

constexpr const char kGluster[] =
    "101 28 0:48 / /mnt/vol\\040one rw,relatime shared:7 master:2 - fuse.glusterfs "
    "10.0.0.1:/vol1 rw,user_id=0,group_id=0,default_permissions,allow_other";

TEST(MountInfo, ParsesALineWithEscapesAndOptionalFields) {
  MountLine line;
  ASSERT_TRUE(parse_mount_line(kGluster, line));
  EXPECT_EQ(line.mount_id, 101U);
  EXPECT_EQ(line.major, 0U);
  EXPECT_EQ(line.minor, 48U);
  EXPECT_EQ(line.root, "/");
  EXPECT_EQ(line.mount_point, "/mnt/vol one");
  EXPECT_EQ(line.type, "fuse.glusterfs");
  EXPECT_EQ(line.source, "10.0.0.1:/vol1");
  EXPECT_TRUE(has_option(line.super_options, "user_id=0"));
}

TEST(MountInfo, ParsesALineWithoutOptionalFields) {
  MountLine line;
  EXPECT_TRUE(parse_mount_line("36 35 98:0 /a /b rw - ext3 /dev/root rw", line));
  EXPECT_EQ(line.type, "ext3");
}

TEST(MountInfo, RefusesMalformedLines) {
  MountLine line;
  for (const char* text : {"", " ", "1", "1 2 3 / / rw - t s o", "x 2 0:1 / / rw - t s o",
                           "1 2 0:1 / /m rw shared:1", "1 2 0:x / /m rw - t s o"}) {
    EXPECT_FALSE(parse_mount_line(text, line)) << text;
  }
}

TEST(MountInfo, AnOptionIsMatchedInFullOnly) {
  EXPECT_TRUE(has_option("rw,user_id=0", "user_id=0"));
  EXPECT_FALSE(has_option("rw,user_id=01,group_id=0", "user_id=0"));
  EXPECT_FALSE(has_option("rw,xuser_id=0", "user_id=0"));
  EXPECT_FALSE(has_option("", "user_id=0"));
}

TEST(MountInfo, OnlyARootMountedGlusterIsGenuine) {
  const auto genuine = [](const std::string& line) {
    return is_genuine(lines_of_device(line, makedev(0, 48)));
  };
  const std::string good = kGluster;
  EXPECT_TRUE(genuine(good));
  const auto replaced = [&good](const std::string& from, const std::string& to) {
    std::string line = good;
    return line.replace(line.find(from), from.size(), to);
  };
  EXPECT_FALSE(genuine(replaced("user_id=0", "user_id=1000")));
  EXPECT_FALSE(genuine(replaced("fuse.glusterfs", "fuse.glusterfsx")));
  EXPECT_FALSE(genuine(replaced("fuse.glusterfs", "fuse")));
  EXPECT_FALSE(genuine(replaced("0:48", "0:49")));
  EXPECT_FALSE(genuine(""));
  // The same device once more, but not so: believed by none.
  EXPECT_FALSE(genuine(good + "\n" + replaced("user_id=0", "user_id=5")));
  EXPECT_TRUE(genuine(good + "\n" + good));
}

TEST(MountInfo, ASourceCannotForgeOptions) {
  // A user's fuse mount may choose its source; spaces in it are escaped by the kernel.
  const std::string line =
      "9 1 0:48 / /home/u/m rw - fuse x\\040-\\040fuse.glusterfs\\040s\\040user_id=0 "
      "rw,user_id=1000";
  EXPECT_FALSE(is_genuine(lines_of_device(line, makedev(0, 48))));
}

TEST(MountInfo, TheOwnTableHasTheDeviceOfRoot) {
  auto table = MountTable::open();
  ASSERT_TRUE(table.ok());
  const auto text = table->read();
  ASSERT_TRUE(text.ok());
  struct stat proc {};
  ASSERT_EQ(::stat("/proc", &proc), 0);
  EXPECT_FALSE(lines_of_device(*text, proc.st_dev).empty());
  const auto again = table->read();
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(*text, *again);
}

TEST(FdInfo, ParsesWhatTheKernelWrites) {
  const FdInfo info = parse_fdinfo(
      "pos:\t10\nflags:\t02100002\nmnt_id:\t101\nino:\t9007199254740993\n"
      "lock:\t1: POSIX  ADVISORY  WRITE 1 00:30:1 0 EOF\n");
  EXPECT_TRUE(info.has_flags && info.has_mount_id && info.has_inode);
  EXPECT_EQ(info.flags, 02100002U);
  EXPECT_EQ(info.flags & O_ACCMODE, static_cast<unsigned>(O_RDWR));
  EXPECT_EQ(info.mount_id, 101U);
  EXPECT_EQ(info.inode, 9007199254740993U);
}

TEST(FdInfo, AbsentOrGarbledFieldsAreAbsent) {
  EXPECT_FALSE(parse_fdinfo("pos:\t0\nflags:\t02\nmnt_id:\t1\n").has_inode);
  EXPECT_FALSE(parse_fdinfo("flags:\t09\n").has_flags);
  EXPECT_FALSE(parse_fdinfo("ino:\t\n").has_inode);
  EXPECT_FALSE(parse_fdinfo("ino:\t1x\n").has_inode);
  EXPECT_FALSE(parse_fdinfo("").has_flags);
}

TEST(FdInfo, OfAnOwnDescriptorAgreesWithStat) {
  char name[] = "/tmp/booster-fdinfo-XXXXXX";
  const UniqueFd fd(::mkstemp(name));
  ::unlink(name);
  struct stat status {};
  ASSERT_EQ(::fstat(fd.get(), &status), 0);
  Peer self;
  self.proc_dir = UniqueFd(::open("/proc/self", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  FdinfoReaders readers;
  const auto read = [&](int number) {
    return readers.read(::getuid(), self.proc_dir.get(), static_cast<uint32_t>(number));
  };
  const auto info = read(fd.get());
  ASSERT_TRUE(info.ok());
  EXPECT_EQ(info->inode, status.st_ino);
  EXPECT_EQ(info->flags & O_ACCMODE, static_cast<unsigned>(O_RDWR));
  EXPECT_FALSE(read(1'000'000).ok());
}

}  // namespace
}  // namespace booster::daemon::control

// What was wrong once, under the policy of the default configuration: two owners wrote one file, or
// one wrote it and another served reads of it. The smallest case of each; the matrix
// (matrix_test.cc) has their kin.
#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <thread>

#include "tests/integration/harness.h"
#include "tests/integration/puppet.h"
#include "tests/programs/bytes.h"

namespace booster::test {
namespace {

using std::chrono::milliseconds;

constexpr size_t kMiB = 1 << 20;
constexpr uint64_t kOld = 1;  // seeds of what is there, and of the change
constexpr uint64_t kNew = 2;

class OnceWrong : public testing::Test {
 protected:
  std::string make_file(size_t size) {
    const std::string path = dir_.file("file");
    write_file(path, bytes_at(0, size, kOld));
    return path;
  }

  /// Writes the first MiB of `name` again until that is boosted.
  void warm(Puppet& puppet, const std::string& name) {
    until_counted(
        daemon_, [this] { return daemon_.boosted_write_bytes(); },
        [&] { ASSERT_EQ(puppet.tell("pwrite", name, 0, kMiB, kOld), right(kMiB)); },
        milliseconds(2));
  }

  static std::string right(size_t length) { return std::to_string(length); }

  ScratchDir dir_;
  Daemon daemon_;
};

TEST_F(OnceWrong, WhoHasTheFileOpenSeesBytesAndSizeOfABoostedWriter) {
  const std::string path = make_file(kMiB);
  Puppet writer(kAsUsersDo);
  Puppet reader(kAsUsersDo);
  ASSERT_EQ(writer.tell("open", "w", "rw", path), "0");
  warm(writer, "w");
  ASSERT_EQ(reader.tell("open", "r", "r", path), "0");
  ASSERT_EQ(reader.tell("pread", "r", 0, 2 * kMiB, kOld), right(kMiB));
  for (uint64_t i = 1; i <= 20; ++i) {
    ASSERT_EQ(writer.tell("pwrite", "w", 0, kMiB, kOld + i), right(kMiB));
    ASSERT_EQ(writer.tell("pwrite", "w", i * kMiB, kMiB, kOld + i), right(kMiB));
    ASSERT_EQ(reader.tell("pread", "r", 0, kMiB, kOld + i), right(kMiB)) << i;
    ASSERT_EQ(reader.tell("pread", "r", i * kMiB, kMiB, kOld + i), right(kMiB)) << i;
    const std::string status = reader.tell("fstat", "r");
    ASSERT_EQ(status.substr(0, status.find(' ')), std::to_string((i + 1) * kMiB)) << i;
  }
}

TEST_F(OnceWrong, WhatAnotherHasStoredInAMappingIsRead) {
  constexpr size_t kCount = 32;
  constexpr size_t kPage = 4096;
  const std::string path = make_file(kCount * kMiB);
  // Nothing of it is in the kernel, so that it would pay to ask the bricks.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  ::close(fd);
  Puppet writer(kAsUsersDo);
  Puppet reader(kAsUsersDo);
  ASSERT_EQ(writer.tell("open", "w", "rw", path), "0");
  ASSERT_EQ(writer.tell("map", "w", kCount * kMiB), "0");
  ASSERT_EQ(reader.tell("open", "r", "r", path), "0");
  // The reader would be boosted by now, if it ever were.
  ASSERT_EQ(reader.tell("pread", "r", 0, kMiB, kOld), right(kMiB));
  std::this_thread::sleep_for(milliseconds(300));
  for (size_t i = 1; i < kCount; ++i) {
    const size_t at = i * kMiB + kMiB / 2;
    ASSERT_EQ(writer.tell("store", "w", at, kPage, kNew), right(kPage));
    const std::string seen = reader.tell("pread", "r", i * kMiB, kMiB, kOld);
    ASSERT_EQ(seen, right(kMiB) + " wrong at " + std::to_string(kMiB / 2)) << i;
    ASSERT_EQ(reader.tell("pread", "r", at, kPage, kNew), right(kPage)) << i;
  }
}

TEST_F(OnceWrong, StandardInputShowsABoostedWriteOfTheSameProgram) {
  const std::string path = make_file(2 * kMiB);
  Puppet program(kAsUsersDo);
  ASSERT_EQ(program.tell("open", "w", "rw", path), "0");
  warm(program, "w");
  for (uint64_t i = 1; i <= 20; ++i) {
    ASSERT_EQ(program.tell("seek", "w", 0), "0");
    ASSERT_EQ(program.tell("as-stdin", "w"), "0");
    ASSERT_EQ(program.tell("pwrite", "w", 0, kMiB, kOld + i), right(kMiB));
    const auto byte = static_cast<unsigned char>(byte_at(0, kOld + i));
    ASSERT_EQ(program.tell("getchar"), std::to_string(byte)) << i;
    ASSERT_EQ(program.tell("not-stdin"), "0");
  }
}

}  // namespace
}  // namespace booster::test

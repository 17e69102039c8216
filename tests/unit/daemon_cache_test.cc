// What the page cache stands on: memory that clients cannot write. The cache as a whole is tested
// on a volume (tests/integration/cache_test.cc).
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "common/page_cache.h"
#include "daemon/data/cache_store.h"

namespace booster::daemon {
namespace {

class CacheStore : public testing::Test {
 protected:
  CacheStore() {
    auto made = data::CacheStore::create();
    EXPECT_TRUE(made.ok()) << made.error();
    store_ = std::move(*made);
    file_ = std::move(*store_->make_file());
  }
  int writable() const { return file_.writable.get(); }
  int read_only() const { return file_.read_only.get(); }

  std::unique_ptr<data::CacheStore> store_;
  data::CacheStore::File file_;
};

TEST_F(CacheStore, WhatTheDaemonWritesIsThereForReaders) {
  ASSERT_EQ(::pwrite(writable(), "hello", 5, common::kDataStart), 5);
  char text[5];
  EXPECT_EQ(::pread(read_only(), text, 5, common::kDataStart), 5);
  EXPECT_EQ(std::string(text, 5), "hello");
  EXPECT_EQ(data::CacheStore::held(file_), 4096U);
}

TEST_F(CacheStore, ReadersCannotWriteByAnyWay) {
  EXPECT_EQ(::pwrite(read_only(), "x", 1, 0), -1);
  EXPECT_EQ(::ftruncate(read_only(), 0), -1);
  EXPECT_EQ(::fallocate(read_only(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
  EXPECT_EQ(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, read_only(), 0), MAP_FAILED);
  // Root, too: the mount is read-only.
  const std::string again = "/proc/self/fd/" + std::to_string(read_only());
  EXPECT_EQ(::open(again.c_str(), O_RDWR | O_CLOEXEC), -1);
  EXPECT_EQ(errno, EROFS);
  EXPECT_EQ(::fchmod(read_only(), 0777), -1);
  EXPECT_EQ(errno, EROFS);

  void* map = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, read_only(), 0);
  ASSERT_NE(map, MAP_FAILED);
  EXPECT_EQ(::mprotect(map, 4096, PROT_READ | PROT_WRITE), -1);
  ::munmap(map, 4096);
}

TEST_F(CacheStore, NoPathLeadsToIt) {
  EXPECT_EQ(::openat(read_only(), "..", O_RDONLY | O_CLOEXEC), -1);
  const std::string link = "/proc/self/fd/" + std::to_string(read_only());
  char text[200] = {};
  ASSERT_GT(::readlink(link.c_str(), text, sizeof text - 1), 0);
  EXPECT_NE(std::string(text).find("(deleted)"), std::string::npos) << text;
  EXPECT_EQ(
      ::linkat(AT_FDCWD, link.c_str(), AT_FDCWD, "/tmp/booster-cache-link", AT_SYMLINK_FOLLOW), -1);
}

}  // namespace
}  // namespace booster::daemon

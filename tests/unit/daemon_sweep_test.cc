// What readers get of a page cache by touching holes is taken back. The cache as a whole is tested
// on a volume (tests/integration/cache_test.cc).
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <memory>
#include <optional>

#include "common/abi.h"
#include "common/page_cache.h"
#include "daemon/data/cache_store.h"
#include "daemon/data/page_cache.h"
#include "daemon/gluster/file.h"
#include "daemon/gluster/mount.h"

namespace booster::daemon::data {
namespace {

constexpr uint64_t kStray = 24 << 20;

class Sweep : public testing::Test {
 protected:
  Sweep() {
    auto store = CacheStore::create();
    EXPECT_TRUE(store.ok()) << store.error();
    cache_ = std::make_unique<PageCache>(std::move(*store),
                                         CacheLimits{.bytes = 64 << 20, .retain = 0}, mounts_);
    file_ = cache_->open(inode_);
  }

  uint64_t held() const {
    struct stat status {};
    ::fstat(file_->descriptor(), &status);
    return static_cast<uint64_t>(status.st_blocks) * 512;
  }
  /// As a reader does.
  void touch(uint64_t offset, uint64_t bytes) const {
    void* map = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file_->descriptor(),
                       static_cast<off_t>(offset));
    ASSERT_NE(map, MAP_FAILED);
    for (uint64_t at = 0; at < bytes; at += common::kPageSize) {
      EXPECT_EQ(static_cast<volatile const char*>(map)[at], 0);
    }
    ::munmap(map, bytes);
  }

  gluster::Mounts mounts_{gluster::MountSettings{}};
  std::unique_ptr<PageCache> cache_;
  const std::shared_ptr<gluster::Inode> inode_ =
      std::make_shared<gluster::Inode>(0, 0, gluster::Gfid{});
  std::shared_ptr<CachedFile> file_;
};

TEST_F(Sweep, StraysAmongWordsAndPagesGoPieceByPiece) {
  for (const uint64_t place : {common::kWordsStart, common::kDataStart,
                               common::kDataStart + (uint64_t{3} << 38) + common::kPageSize}) {
    touch(place, kStray);
    EXPECT_GE(held(), kStray);
    for (std::optional<uint64_t> next = 0; next;) {
      const uint64_t before = held();
      next = file_->sweep_piece(*next);
      EXPECT_LE(before - held(), common::kExtent);
    }
    EXPECT_EQ(held(), 0U) << place;
  }
}

}  // namespace
}  // namespace booster::daemon::data

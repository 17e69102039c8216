// The test's side of memory that it shares with its programs (tests/programs/shared_page.h).
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>

#include "tests/integration/harness.h"
#include "tests/programs/shared_page.h"

namespace booster::test {

/// A `Board` of zeros in a new file, which goes with this.
template <typename Board>
class SharedBoard {
 public:
  explicit SharedBoard(std::string path) : path_(std::move(path)) {
    write_file(path_, std::string(sizeof(Board), '\0'));
    board_ = map_shared<Board>(path_);
    EXPECT_NE(board_, nullptr) << path_;
  }
  ~SharedBoard() {
    ::munmap(board_, sizeof(Board));
    ::unlink(path_.c_str());
  }
  SharedBoard(const SharedBoard&) = delete;
  SharedBoard& operator=(const SharedBoard&) = delete;

  Board* operator->() const { return board_; }
  const std::string& path() const { return path_; }

 private:
  const std::string path_;
  Board* board_ = nullptr;
};

}  // namespace booster::test

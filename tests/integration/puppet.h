// A program that does, call by call, what a test tells it (booster_probe puppet).
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "tests/integration/harness.h"

namespace booster::test {

class Puppet {
 public:
  explicit Puppet(const RunOptions& options = {}) : child_({probe_path(), "puppet"}, options) {
    EXPECT_EQ(child_.read_line(), "ready");
  }

  /// Tells it a command and waits for the answer: the call's result, or -1 and the errno's name.
  template <typename... Words>
  std::string tell(const Words&... words) {
    order(words...);
    return answer();
  }
  /// The two halves of it.
  template <typename... Words>
  void order(const Words&... words) {
    std::string line;
    ((line += line.empty() ? "" : " ", line += text(words)), ...);
    child_.write_line(line);
  }
  std::string answer() { return child_.read_line(); }

  /// Its standard input ends, and so does it, as programs do. Without this it is killed.
  void leave() { EXPECT_EQ(child_.wait().status, 0); }

  Child& child() { return child_; }
  pid_t pid() const { return child_.pid(); }

 private:
  static std::string text(const std::string& word) { return word; }
  template <typename Number>
  static std::string text(Number number) requires std::is_arithmetic_v<Number> {
    return std::to_string(number);
  }

  Child child_;
};

}  // namespace booster::test

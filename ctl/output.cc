// write(2) in a loop, and fmt.
#include "ctl/output.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

namespace booster::ctl {

Exit print(std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(STDOUT_FILENO, text.data(), text.size());
    if (n >= 0) {
      text.remove_prefix(static_cast<size_t>(n));
    } else if (errno != EINTR) {
      if (errno != EPIPE) {
        complain(fmt::format("cannot write to the standard output: {}", strerrordesc_np(errno)));
      }
      return Exit::kFailed;
    }
  }
  return Exit::kOk;
}

void complain(std::string_view message) {
  fmt::print(stderr, "boosterctl: {}\n", message);
}

std::string printable(std::string_view text) {
  std::string out(text);
  std::replace_if(
      out.begin(), out.end(),
      [](char c) { return static_cast<unsigned char>(c) < ' ' || c == '\x7f'; }, '?');
  return out;
}

}  // namespace booster::ctl

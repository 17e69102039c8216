// Parsing of /proc/self/mountinfo.
#include "daemon/control/mountinfo.h"

#include <fcntl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>

namespace booster::daemon::control {
namespace {

std::string_view next_field(std::string_view& rest) {
  const size_t end = std::min(rest.find(' '), rest.size());
  const std::string_view field = rest.substr(0, end);
  rest.remove_prefix(std::min(end + 1, rest.size()));
  return field;
}

template <class T>
bool to_number(std::string_view text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && !text.empty();
}

/// The kernel writes space, tab, newline, backslash and '#' as \ooo.
std::string unescape(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const auto octal = [&](size_t at) {
      return at < text.size() && text[at] >= '0' && text[at] <= '7';
    };
    if (text[i] == '\\' && octal(i + 1) && octal(i + 2) && octal(i + 3)) {
      out.push_back(static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 +
                                      (text[i + 3] - '0')));
      i += 3;
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

/// The first fields of a line, up to the device; takes them away from it.
bool take_numbers(std::string_view& line, MountLine& out) {
  uint64_t parent = 0;
  if (!to_number(next_field(line), out.mount_id) || !to_number(next_field(line), parent)) {
    return false;
  }
  const std::string_view device = next_field(line);
  const size_t colon = device.find(':');
  return colon != std::string_view::npos && to_number(device.substr(0, colon), out.major) &&
         to_number(device.substr(colon + 1), out.minor);
}

/// The rest of the line.
bool take_strings(std::string_view rest, MountLine& out) {
  out.root = unescape(next_field(rest));
  out.mount_point = unescape(next_field(rest));
  out.options = std::string(next_field(rest));
  // Any number of optional fields, then a single hyphen.
  while (true) {
    if (rest.empty()) return false;
    if (next_field(rest) == "-") break;
  }
  out.type = unescape(next_field(rest));
  out.source = unescape(next_field(rest));
  out.super_options = std::string(next_field(rest));
  return !out.mount_point.empty() && !out.type.empty();
}

}  // namespace

bool parse_mount_line(std::string_view line, MountLine& out) {
  // 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
  return take_numbers(line, out) && take_strings(line, out);
}

std::vector<MountLine> lines_of_device(std::string_view table, dev_t dev) {
  std::vector<MountLine> found;
  while (!table.empty()) {
    const size_t end = std::min(table.find('\n'), table.size());
    std::string_view rest = table.substr(0, end);
    MountLine line;
    // Every Engage looks through the whole table: the lines of other devices cost three numbers.
    if (take_numbers(rest, line) && line.major == major(dev) && line.minor == minor(dev) &&
        take_strings(rest, line)) {
      found.push_back(std::move(line));
    }
    table.remove_prefix(std::min(end + 1, table.size()));
  }
  return found;
}

bool has_option(std::string_view options, std::string_view option) {
  while (!options.empty()) {
    const size_t end = std::min(options.find(','), options.size());
    if (options.substr(0, end) == option) return true;
    options.remove_prefix(std::min(end + 1, options.size()));
  }
  return false;
}

bool is_genuine(const std::vector<MountLine>& lines) {
  return !lines.empty() && std::all_of(lines.begin(), lines.end(), [](const MountLine& line) {
    return line.type == "fuse.glusterfs" && has_option(line.super_options, "user_id=0");
  });
}

bool below_users_fuse(std::string_view table, std::string_view mount_point) {
  while (!table.empty()) {
    const size_t end = std::min(table.find('\n'), table.size());
    const std::string_view text = table.substr(0, end);
    table.remove_prefix(std::min(end + 1, table.size()));
    MountLine line;
    if (text.find("user_id=") == std::string_view::npos || !parse_mount_line(text, line) ||
        !line.type.starts_with("fuse") || has_option(line.super_options, "user_id=0")) {
      continue;
    }
    if (mount_point.starts_with(line.mount_point) &&
        (mount_point.size() == line.mount_point.size() ||
         mount_point[line.mount_point.size()] == '/')) {
      return true;
    }
  }
  return false;
}

Result<MountTable> MountTable::open() {
  UniqueFd fd(::open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC));
  if (!fd) return errno_failure();
  return MountTable(std::move(fd));
}

Result<std::string> MountTable::read() const {
  std::string table;
  constexpr size_t chunk = 16384;
  while (true) {
    const size_t at = table.size();
    table.resize(at + chunk);
    // Offset 0 starts the kernel's list over. It hands out about a page at a time and keeps a
    // cursor in the list between reads, so that a mount which is there all the while is never
    // skipped.
    const ssize_t n = ::pread(fd_.get(), table.data() + at, chunk, static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) {
      table.resize(at);
      continue;
    }
    if (n < 0) return errno_failure();
    table.resize(at + static_cast<size_t>(n));
    if (n == 0) return table;
  }
}

}  // namespace booster::daemon::control

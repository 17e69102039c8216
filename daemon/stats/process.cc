// Reads this process's own costs from /proc.
#include "daemon/stats/process.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <memory>
#include <unordered_set>

#include "daemon/unique_fd.h"

namespace booster::daemon::stats {
namespace {

/// The number after "Name:" in a /proc status file.
uint64_t status_number(std::string_view status, std::string_view name) {
  size_t at = status.find(name);
  if (at == std::string_view::npos) return 0;
  at = status.find_first_not_of(" \t", at + name.size());
  if (at == std::string_view::npos) return 0;
  uint64_t value = 0;
  std::from_chars(status.data() + at, status.data() + status.size(), value);
  return value;
}

/// Inode numbers of established connections, from /proc/self/net/tcp or tcp6.
void add_established(std::string_view table, std::unordered_set<uint64_t>& inodes) {
  size_t line_start = table.find('\n');  // the header
  while (line_start != std::string_view::npos && line_start + 1 < table.size()) {
    const size_t start = line_start + 1;
    line_start = table.find('\n', start);
    const std::string line(table.substr(start, line_start - start));
    unsigned state = 0;
    unsigned long inode = 0;
    // sl local remote st tx:rx tr:tm retrnsmt uid timeout inode
    if (std::sscanf(line.c_str(), "%*s %*s %*s %x %*s %*s %*s %*u %*d %lu", &state, &inode) == 2 &&
        state == 1) {
      inodes.insert(inode);
    }
  }
}

}  // namespace

std::string read_small_file(const char* path, size_t limit) {
  UniqueFd fd(::open(path, O_RDONLY | O_CLOEXEC));
  std::string text;
  if (!fd) return text;
  char buffer[8192];
  ssize_t n = 0;
  while (text.size() < limit && (n = ::read(fd.get(), buffer, sizeof buffer)) > 0) {
    text.append(buffer, static_cast<size_t>(n));
  }
  return text;
}

ProcessCost process_cost() {
  ProcessCost cost;
  const std::string status = read_small_file("/proc/self/status");
  cost.threads = static_cast<uint32_t>(status_number(status, "\nThreads:"));
  cost.resident_bytes = status_number(status, "\nVmRSS:") * 1024;

  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) == 0) {
    cost.cpu_seconds = static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                       static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
  }

  std::unordered_set<uint64_t> established;
  constexpr size_t kEnough = size_t{16} << 20;
  add_established(read_small_file("/proc/self/net/tcp", kEnough), established);
  add_established(read_small_file("/proc/self/net/tcp6", kEnough), established);

  std::unique_ptr<DIR, int (*)(DIR*)> dir(opendir("/proc/self/fd"), closedir);
  if (!dir) return cost;
  while (const dirent* entry = readdir(dir.get())) {  // NOLINT(concurrency-mt-unsafe): own DIR
    if (entry->d_name[0] == '.') continue;
    ++cost.descriptors;
    char target[64];
    const ssize_t n = readlinkat(dirfd(dir.get()), entry->d_name, target, sizeof target - 1);
    if (n <= 0) continue;
    target[n] = '\0';
    unsigned long inode = 0;
    if (std::sscanf(target, "socket:[%lu]", &inode) == 1 && established.count(inode) != 0) {
      ++cost.connections;
    }
  }
  return cost;
}

}  // namespace booster::daemon::stats

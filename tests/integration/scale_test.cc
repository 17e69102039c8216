// What many open files, and many programs, take of the host: as the README says.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

#include "tests/integration/harness.h"

namespace booster::test {
namespace {

/// Usage: DIRECTORY FILES MODE. Opens so many files, uses each, and says so; then closes them.
constexpr const char* kManyFiles = R"(
import os, resource, sys
directory, count, mode = sys.argv[1], int(sys.argv[2]), sys.argv[3]
resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, count + 100))
reads = mode == 'read'
files = [os.open('%s/%d' % (directory, i), os.O_RDONLY if reads else os.O_RDWR) for i in range(count)]
def use(number):
    if reads: return os.pread(files[number], 4096, 8192).rstrip(b'\0')
    return os.pwrite(files[number], b'%d' % number, 8192)
for i in range(count): use(i)
print('opened', flush=True)
sys.stdin.readline()
for i in range(count): assert not reads or use(i) == b'%d' % i, i
print('used', flush=True)
sys.stdin.readline()
for fd in files: os.close(fd)
print('closed', flush=True)
sys.stdin.readline()
)";

/// Usage: FILE PROCESSES. So many processes open the file and read it, and say so together; then
/// each reads once more.
constexpr const char* kManyProcesses = R"(
import os, sys
path, count = sys.argv[1], int(sys.argv[2])
told, tell = os.pipe()
wait, go = os.pipe()
for i in range(count):
    if os.fork() != 0: continue
    os.close(go)
    fd = os.open(path, os.O_RDONLY)
    def use(): return b'.' if os.pread(fd, 4096, 4096 * (i % 256)) == b'x' * 4096 else b'!'
    os.write(tell, use())
    os.read(wait, 1)
    os.write(tell, use())
    os._exit(0)
os.close(wait)
def all_of_them():
    seen = b''
    while len(seen) < count: seen += os.read(told, count)
    return 'right' if seen == b'.' * count else 'wrong'
print(all_of_them(), flush=True)
sys.stdin.readline()
os.close(go)
print(all_of_them(), flush=True)
for i in range(count): assert os.wait()[1] == 0
)";

struct Taken {
  uint64_t memory = 0;  // bytes
  size_t descriptors = 0;
  size_t threads = 0;
};

size_t entries(const std::string& directory) {
  size_t number = 0;
  std::error_code gone;  // what ends meanwhile has none
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(directory, gone)) {
    ++number;
  }
  return number;
}

/// Of the process and of its descendants, the daemon's helpers.
Taken taken(pid_t pid) {
  const std::string process = "/proc/" + std::to_string(pid);
  Taken all;
  std::ifstream rollup(process + "/smaps_rollup");
  for (std::string line; std::getline(rollup, line);) {
    if (line.starts_with("Pss:")) all.memory = std::strtoull(line.c_str() + 4, nullptr, 10) << 10;
  }
  all.descriptors = entries(process + "/fd");
  std::error_code gone;
  for (const auto& task : std::filesystem::directory_iterator(process + "/task", gone)) {
    ++all.threads;
    std::ifstream children(task.path() / "children");
    for (pid_t child = 0; children >> child;) {
      const Taken theirs = taken(child);
      all.memory += theirs.memory;
      all.descriptors += theirs.descriptors;
      all.threads += theirs.threads;
    }
  }
  return all;
}

/// Says, and bounds, what has come on top of `before` for each of `count`.
void expect_no_more(const char* what, const Taken& before, pid_t pid, size_t count, uint64_t memory,
                    size_t descriptors, size_t threads) {
  Taken now = taken(pid);
  // Threads that have nothing to do any more take a while to go.
  const auto few = [&] { return now.threads <= before.threads + threads; };
  comes_true([&] {
    if (!few()) now.threads = std::min(now.threads, taken(pid).threads);
    return few();
  });
  const uint64_t bytes = now.memory > before.memory ? (now.memory - before.memory) / count : 0;
  const double files =
      (static_cast<double>(now.descriptors) - static_cast<double>(before.descriptors)) /
      static_cast<double>(count);
  printf("%s: %lu bytes and %.2f descriptors each, %zu threads more\n", what, bytes, files,
         now.threads - before.threads);
  EXPECT_LE(bytes, memory) << what;
  EXPECT_LE(files, static_cast<double>(descriptors) + 0.1) << what;
  EXPECT_TRUE(few()) << what << ": " << now.threads - before.threads << " threads more";
}

class Scale : public testing::Test {
 protected:
  static constexpr size_t kFiles = 5000;
  static constexpr uint64_t kBoosted = 4096;  // of one process: common::kHandleSlots
  static constexpr uint64_t kFileBytes = 1 << 20;
  static constexpr size_t kProcesses = 1000;

  /// Files that each bear their number.
  void make_files() const {
    for (size_t i = 0; i < kFiles; ++i) {
      const std::string path = dir_.file(std::to_string(i));
      std::ofstream file(path);
      file.seekp(8192);
      file << i;
      file.close();
      ASSERT_EQ(::truncate(path.c_str(), kFileBytes), 0);
    }
  }

  /// Makes the context, so that what it takes is not counted.
  void first_use() const {
    write_file(dir_.file("first"), pattern(kFileBytes));
    until_boosted(daemon_, Moves::kReads, [&] { read_one(); });
  }
  void read_one() const {
    const RunResult result =
        run({"dd", "if=" + dir_.file("first"), "of=/dev/null", "bs=4k", "status=none"});
    ASSERT_EQ(result.status, 0) << result.err;
  }

  ScratchDir dir_;
  Daemon daemon_;
};

class OpenFiles : public Scale, public testing::WithParamInterface<const char*> {};

TEST_P(OpenFiles, OfOneProcess) {
  const std::string mode = GetParam();
  const bool reads = mode == "read";
  make_files();
  first_use();
  const Taken before = taken(daemon_.pid());
  const auto boosted = [&, reads] {
    const auto totals = daemon_.stats().totals();
    return reads ? totals.read_calls() + totals.cached_calls() : totals.write_calls();
  };
  const uint64_t calls = boosted();
  Child program({"python3", "-c", kManyFiles, dir_.path(), std::to_string(kFiles), mode},
                {.timeout = std::chrono::seconds(300)});
  ASSERT_EQ(program.read_line(), "opened");
  // A write is counted when the bricks have it.
  EXPECT_TRUE(comes_true([&] { return boosted() - calls >= kBoosted / 100 * 98; }))
      << "not all that could be: " << boosted() - calls << kTooLittle;
  if (reads) {
    expect_no_more("an open file that is read", before, daemon_.pid(), kBoosted, 24 << 10, 6, 64);
  } else {
    expect_no_more("an open file that is written", before, daemon_.pid(), kBoosted, 24 << 10, 6,
                   kBoosted + 64);
  }
  program.write_line("");
  ASSERT_EQ(program.read_line(), "used");
  program.write_line("");
  ASSERT_EQ(program.read_line(), "closed");
  program.write_line("");
  const RunResult result = program.wait();
  EXPECT_EQ(result.status, 0) << result.err;
  for (size_t i = 0; i < kFiles; i += 100) {
    const std::string bytes = read_file(dir_.file(std::to_string(i)));
    EXPECT_EQ(bytes.substr(8192, std::to_string(i).size()), std::to_string(i));
  }
}

INSTANTIATE_TEST_SUITE_P(, OpenFiles, testing::Values("read", "write"),
                         [](const auto& info) { return std::string(info.param); });

TEST_F(Scale, AThousandProcesses) {
  first_use();
  const std::string path = dir_.file("shared");
  write_file(path, std::string(kFileBytes, 'x'));
  const Taken before = taken(daemon_.pid());
  Child program({"python3", "-c", kManyProcesses, path, std::to_string(kProcesses)},
                {.timeout = std::chrono::seconds(300)});
  ASSERT_EQ(program.read_line(), "right");
  // FUSE may have done all that one or the other has called for.
  const auto sessions = [&] { return daemon_.stats().sessions_size(); };
  EXPECT_TRUE(comes_true([&] { return sessions() >= static_cast<int>(kProcesses / 100 * 99); }))
      << sessions() << kTooLittle;
  expect_no_more("a process", before, daemon_.pid(), kProcesses, 64 << 10, 6, 64);
  program.write_line("");
  ASSERT_EQ(program.read_line(), "right");
  const RunResult result = program.wait();
  EXPECT_EQ(result.status, 0) << result.err;
}

}  // namespace
}  // namespace booster::test

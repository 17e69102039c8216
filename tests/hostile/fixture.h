// What every Hostile test starts from: boosterd, a scratch directory on the real mount, and in the
// end the proof that the daemon has lived through it and still serves an honest client.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

#include "tests/hostile/attack.h"
#include "tests/integration/harness.h"

namespace booster::test {

/// A program of tests/hostile: the build puts them in a directory beside this test program.
inline std::string hostile_program(const std::string& name) {
  return std::filesystem::read_symlink("/proc/self/exe").parent_path() / "hostile" / name;
}

/// Runs a tool of the lab's, which must succeed.
inline void must(const std::string& command) {
  const RunResult result = shell(command, {.preload = false});
  ASSERT_EQ(result.status, 0) << command << ": " << result.err;
}

class Hostile : public ::testing::Test {
 protected:
  /// The daemon, started at the first call, with `config` if that is this one.
  Daemon& boosterd(const std::string& config = "") {
    if (!daemon_) daemon_.emplace(config);
    return *daemon_;
  }

  void SetUp() override {
    write_file(honest_file_, honest_bytes_);
    secret_ = make_file("secret", pattern(64 << 10, 78), 0600);
    open_file_ = make_file("open", pattern(64 << 10, 79), 0666);
  }

  void TearDown() override {
    if (!daemon_) return;
    EXPECT_TRUE(ask_stats()) << "the daemon does not answer any more";
    EXPECT_EQ(honest(), "served");
  }

  static std::unique_ptr<admin::Stats> stats() {
    auto got = ask_stats();
    if (!got) throw std::runtime_error("the daemon does not answer");
    return got;
  }
  static uint64_t lies() { return stats()->totals().sessions_ended_for_lies(); }
  static uint64_t handles() {
    uint64_t count = 0;
    const auto now = stats();
    for (const auto& session : now->sessions()) count += session.handles();
    return count;
  }
  /// Sessions end a moment after their client.
  static bool without_sessions() {
    return within(kPatience, [] { return stats()->sessions_size() == 0; });
  }

  /// A new client that keeps the rules reads a file: "served", or what went wrong.
  std::string honest() {
    try {
      const auto client = new_session();
      const Fd file(honest_file_, O_RDONLY);
      const std::string granted = engage(*client, file.get());
      if (granted != "granted r") return granted;
      return still_honest(*client);
    } catch (const std::exception& e) {
      return e.what();
    }
  }
  /// The same with a session that has the file engaged in slot 0 already.
  std::string still_honest(DaemonClient& client) {
    constexpr uint32_t kLength = 4096;
    for (uint64_t offset = 0; offset < honest_bytes_.size(); offset += 10 * kLength) {
      const std::string got = read_through(client, offset, kLength);
      if (got != honest_bytes_.substr(offset, kLength)) {
        return "wrong bytes: " + got.substr(0, 40);
      }
    }
    return "served";
  }

  /// A file of the scratch directory with these bytes and this mode.
  std::string make_file(const std::string& name, const std::string& bytes, mode_t mode,
                        uid_t owner = 0, gid_t group = 0) {
    const std::string path = dir_.file(name);
    write_file(path, bytes);
    EXPECT_EQ(::chown(path.c_str(), owner, group), 0);
    EXPECT_EQ(::chmod(path.c_str(), mode), 0);
    return path;
  }

  const ScratchDir& dir() const { return dir_; }
  /// Root's alone, and everybody's.
  const std::string& secret() const { return secret_; }
  const std::string& open_file() const { return open_file_; }
  const std::string& honest_file() const { return honest_file_; }
  const std::string& honest_bytes() const { return honest_bytes_; }

 private:
  ScratchDir dir_;
  const std::string honest_file_ = dir_.file("honest");
  const std::string honest_bytes_ = pattern(256 << 10, 77);
  std::string secret_;
  std::string open_file_;
  std::optional<Daemon> daemon_;  // last: ends first
};

/// SIGSTOP, and waits until every thread of the daemon stands.
inline void stop(const Daemon& daemon) {
  daemon.signal(SIGSTOP);
  const std::filesystem::path tasks = "/proc/" + std::to_string(daemon.pid()) + "/task";
  ASSERT_TRUE(within(kPatience, [&] {
    for (const auto& task : std::filesystem::directory_iterator(tasks)) {
      const std::string stat = read_file(task.path() / "stat");
      if (stat.substr(stat.rfind(')') + 2, 1) != "T") return false;
    }
    return true;
  }));
}

inline ino_t inode_of(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 ? status.st_ino : 0;
}

inline std::vector<std::string> descriptors_of(pid_t pid) {
  std::vector<std::string> all;
  std::error_code error;
  const std::filesystem::path dir = "/proc/" + std::to_string(pid) + "/fd";
  for (const auto& entry : std::filesystem::directory_iterator(dir, error)) {
    all.push_back(std::filesystem::read_symlink(entry.path(), error));
  }
  return all;
}

}  // namespace booster::test

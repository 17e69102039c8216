#include "tests/integration/harness.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "common/abi.h"
#include "tests/integration/counts.h"
#include "tests/integration/processes.h"

extern char** environ;

namespace booster::test {

namespace {

using Clock = std::chrono::steady_clock;

/// What a daemon, or a program with it, does not do within it, it does not do.
constexpr std::chrono::seconds kNeverThatSlow{120};

[[noreturn]] void die(const std::string& why) {
  std::fprintf(stderr, "harness: %s\n", why.c_str());
  std::_Exit(3);
}

std::string env_or_die(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') {
    die(std::string(name) + " is not set: run this through tests/lab/lab run -- …");
  }
  return value;
}

std::string drain_fd(int fd) {
  std::string all;
  char buffer[65536];
  ssize_t got;
  while ((got = ::read(fd, buffer, sizeof(buffer))) > 0)
    all.append(buffer, static_cast<size_t>(got));
  return all;
}

/// What fails in SetUpTestSuite() or TearDownTestSuite() belongs to no case, and so gtest 1.12
/// leaves it out of its report: whoever reads that would take the rest for all there was. What
/// fails here is in it.
class OfNoCase : public testing::Environment {
 public:
  void TearDown() override {
    const testing::UnitTest& all = *testing::UnitTest::GetInstance();
    for (int i = 0; i < all.total_test_suite_count(); ++i) {
      const testing::TestSuite& suite = *all.GetTestSuite(i);
      const testing::TestResult& result = suite.ad_hoc_test_result();
      for (int part = 0; part < result.total_part_count(); ++part) {
        if (!result.GetTestPartResult(part).failed()) continue;
        ADD_FAILURE() << suite.name()
                      << ", in no case: " << result.GetTestPartResult(part).message();
      }
    }
  }
};
[[maybe_unused]] const testing::Environment* const kOfNoCase =
    testing::AddGlobalTestEnvironment(new OfNoCase);  // gtest's from now on

int exit_status(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

struct Pipe {
  int read = -1;
  int write = -1;
  Pipe() {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) != 0) die("pipe2 failed");
    read = fds[0];
    write = fds[1];
  }
};

/// In the child, between fork and exec.
[[noreturn]] void become(const std::vector<std::string>& argv, const RunOptions& options, int in,
                         int out, int err) {
  ::dup2(in, 0);
  ::dup2(out, 1);
  ::dup2(err, 2);
  if (!options.cwd.empty() && ::chdir(options.cwd.c_str()) != 0) std::_Exit(126);
  if (options.uid) {
    if (::setgroups(0, nullptr) != 0 || ::setgid(*options.uid) != 0 ||
        ::setuid(*options.uid) != 0) {
      std::_Exit(126);
    }
  }
  if (options.preload) {
    ::setenv("LD_PRELOAD", shim_path().c_str(), 1);
    if (options.eager) ::setenv("GLFS_BOOSTER_ENGAGE", "eager", 1);
  }
  for (const auto& [name, value] : options.env) ::setenv(name.c_str(), value.c_str(), 1);
  std::vector<char*> words;
  for (const auto& word : argv) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  ::execvp(words[0], words.data());
  std::_Exit(127);
}

}  // namespace

const Lab& Lab::get() {
  static const Lab lab = [] {
    Lab made;
    made.mount = env_or_die("BOOSTER_LAB_MOUNT");
    made.dir = env_or_die("BOOSTER_LAB_DIR");
    made.shape = env_or_die("BOOSTER_LAB_SHAPE");
    std::stringstream mounts(env_or_die("BOOSTER_LAB_MOUNTS"));
    for (std::string part; std::getline(mounts, part, ':');) made.mounts.push_back(part);
    made.hosts = std::atoi(env_or_die("BOOSTER_LAB_HOSTS").c_str());
    return made;
  }();
  return lab;
}

std::string boosterd_path() {
  return BOOSTER_TEST_BOOSTERD;
}
std::string boosterctl_path() {
  return BOOSTER_TEST_BOOSTERCTL;
}
std::string shim_path() {
  return BOOSTER_TEST_SHIM;
}
std::string probe_path() {
  return BOOSTER_TEST_PROBE;
}

// --- policies ----------------------------------------------------------------------------------

namespace {

Policy running = Policy::kSooner;
/// FUSE takes so long for two of them that asking for a delegation pays.
constexpr size_t kPays = 512 << 10;

}  // namespace

Policy policy() {
  return running;
}

PolicyTest::PolicyTest() {
  running = GetParam();
}
PolicyTest::~PolicyTest() {
  running = Policy::kSooner;
}

size_t paying(size_t bytes) {
  return policy() == Policy::kSooner || bytes >= kPays ? bytes : bytes + kPays;
}

std::map<std::string, std::string> probe_blocks() {
  if (policy() == Policy::kSooner) return {};
  return {{"PROBE_PAYS", std::to_string(kPays)}};
}

void end_with_too_little(const std::string& why) {
  throw std::runtime_error(why + kTooLittle);
}

void until_counted(const Daemon& daemon, const std::function<uint64_t()>& count,
                   const std::function<void()>& work, std::chrono::milliseconds soon) {
  const uint64_t before = count();
  const auto end = Clock::now() + kNeverThatSlow;
  do {
    work();
    if (testing::Test::HasFatalFailure()) throw std::runtime_error("failed meanwhile");
    const auto counted = Clock::now() + soon;
    do {
      if (count() > before) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    } while (Clock::now() < counted);
  } while (Clock::now() < end);
  end_with_too_little("nothing was boosted: " + daemon.stats().ShortDebugString());
}

void until_boosted(const Daemon& daemon, Moves what, const std::function<void()>& work) {
  const auto moved = [&] {
    return what == Moves::kReads ? daemon.boosted_read_bytes() : daemon.boosted_write_bytes();
  };
  const bool sooner = policy() == Policy::kSooner;
  until_counted(daemon, moved, work, std::chrono::milliseconds(sooner ? 5000 : 2));
}

bool comes_true(const std::function<bool()>& condition, std::chrono::seconds patience) {
  const auto end = Clock::now() + patience;
  while (!condition()) {
    if (Clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

bool comes_true_soon(std::chrono::milliseconds bound, const std::function<bool()>& condition) {
  const auto start = Clock::now();
  Clock::duration slowest{0};
  while (true) {
    const auto asked = Clock::now();
    if (condition()) return true;
    slowest = std::max(slowest, Clock::now() - asked);
    if (asked - start > bound + 2 * slowest) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

void expect_nothing_old(const Daemon& daemon, const std::function<void(std::string& old)>& round) {
  constexpr int kAgain = 3;
  std::string old;
  for (int attempt = 0; attempt <= kAgain; ++attempt) {
    const int let_in = daemon.let_in_early();
    old.clear();
    round(old);
    if (old.empty() || testing::Test::HasFailure() || daemon.let_in_early() == let_in) break;
  }
  EXPECT_EQ(old, "");
}

void known_failure(const std::string& fault, const std::function<void()>& work) {
  testing::TestPartResultArray results;
  {
    testing::ScopedFakeTestPartResultReporter reporter(
        testing::ScopedFakeTestPartResultReporter::INTERCEPT_ALL_THREADS, &results);
    work();
  }
  int failures = 0;
  for (int i = 0; i < results.size(); ++i) {
    if (results.GetTestPartResult(i).failed() && failures++ == 0) {
      std::printf("known failure, %s: %s\n", fault.c_str(), results.GetTestPartResult(i).message());
    }
  }
  EXPECT_GT(failures, 0) << "passes now: take the mark off. It was: " << fault;
}

ScratchDir::ScratchDir(const std::string& on) {
  path_ = on + "/test.XXXXXX";
  if (::mkdtemp(path_.data()) == nullptr) die("mkdtemp on " + on + ": " + std::strerror(errno));
  ::chmod(path_.c_str(), 0777);
}

ScratchDir::~ScratchDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

Child::Child(const std::vector<std::string>& argv, const RunOptions& options)
    : timeout_(options.timeout) {
  Pipe out;
  Pipe err;
  int in = -1;
  Pipe stdin_pipe;
  if (!options.stdin_path.empty()) {
    in = ::open(options.stdin_path.c_str(), O_RDONLY | O_CLOEXEC);
    if (in < 0) die("cannot open " + options.stdin_path);
  }
  int to = out.write;
  if (!options.stdout_path.empty()) {
    to =
        ::open(options.stdout_path.c_str(),
               O_WRONLY | O_CREAT | O_CLOEXEC | (options.stdout_append ? O_APPEND : O_TRUNC), 0644);
    if (to < 0) die("cannot open " + options.stdout_path);
  }
  pid_ = ::fork();
  if (pid_ == 0) become(argv, options, in >= 0 ? in : stdin_pipe.read, to, err.write);
  if (pid_ < 0) die("fork failed");
  if (in >= 0) ::close(in);
  if (to != out.write) ::close(to);
  ::close(stdin_pipe.read);
  ::close(out.write);
  ::close(err.write);
  in_ = stdin_pipe.write;
  out_ = out.read;
  err_ = err.read;
}

Child::~Child() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  for (int fd : {in_, out_, err_}) {
    if (fd >= 0) ::close(fd);
  }
}

void Child::signal(int number) const {
  ::kill(pid_, number);
}

void Child::write_line(const std::string& line) {
  const std::string text = line + "\n";
  if (::write(in_, text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    die("the child does not read its standard input");
  }
}

std::string Child::read_line() {
  const auto deadline = Clock::now() + timeout_;
  while (true) {
    const size_t end = buffered_.find('\n');
    if (end != std::string::npos) {
      std::string line = buffered_.substr(0, end);
      buffered_.erase(0, end + 1);
      return line;
    }
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    pollfd output{out_, POLLIN, 0};
    if (left.count() <= 0 || ::poll(&output, 1, static_cast<int>(left.count())) == 0) return "";
    char buffer[4096];
    const ssize_t got = ::read(out_, buffer, sizeof(buffer));
    if (got <= 0) return "";
    buffered_.append(buffer, static_cast<size_t>(got));
  }
}

RunResult Child::wait() {
  if (in_ >= 0) ::close(in_);
  in_ = -1;
  RunResult result;
  result.out = buffered_;
  std::thread errors([&] { result.err = drain_fd(err_); });
  const auto deadline = Clock::now() + timeout_;
  bool late = false;
  std::thread output([&] { result.out += drain_fd(out_); });
  int status = 0;
  while (::waitpid(pid_, &status, WNOHANG) == 0) {
    if (!late && Clock::now() > deadline) {
      late = true;
      ADD_FAILURE() << pid_ << " has not ended:\n" << what_children_do();
      ::kill(pid_, SIGKILL);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  pid_ = -1;
  output.join();
  errors.join();
  result.status = late ? -1 : exit_status(status);
  return result;
}

RunResult run(const std::vector<std::string>& argv, const RunOptions& options) {
  Child child(argv, options);
  if (!options.stdin_data.empty()) child.write_line(options.stdin_data);
  return child.wait();
}

RunResult shell(const std::string& script, const RunOptions& options) {
  return run({"bash", "-c", script}, options);
}

Daemon::Daemon(const std::string& config) {
  static int count = 0;
  const std::string base =
      Lab::get().dir + "/boosterd-" + std::to_string(::getpid()) + "-" + std::to_string(++count);
  config_path_ = base + ".toml";
  log_path_ = base + ".log";
  // Not /var/log/booster: that is the real host's.
  std::string text = "[log]\ngluster_dir = \"" + base + "-gluster\"\n" + config;
  // Nothing waits long for it but what is about it, and says so.
  if (config.find("[failure]") == std::string::npos) {
    text += "\n[failure]\nquarantine_min_ms = 500\n";
  }
  write_file(config_path_, text);
  start();
}

void Daemon::start() {
  if (pid_ > 0) die("boosterd is already started");
  pid_ = ::fork();
  if (pid_ < 0) die("fork failed");
  if (pid_ == 0) {
    const int log = ::open(log_path_.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    ::dup2(log, 1);
    ::dup2(log, 2);
    const std::string path = boosterd_path();
    ::execl(path.c_str(), path.c_str(), "--config", config_path_.c_str(),
            static_cast<char*>(nullptr));
    std::_Exit(127);
  }
  // Its log and its libraries are on a disk that bricks and compilers may keep busy for long.
  const auto deadline = Clock::now() + kNeverThatSlow;
  while (true) {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, booster::common::kAdminSocket);
    const bool up = ::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
    ::close(fd);
    if (up) return;
    int status = 0;
    if (::waitpid(pid_, &status, WNOHANG) == pid_) {
      die("boosterd ended at its start: " + read_file(log_path_));
    }
    if (Clock::now() > deadline) die("boosterd does not listen: " + read_file(log_path_));
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

int Daemon::events(const std::string& name) const {
  const std::string log = read_file(log_path_);
  const std::string event = "event=" + name;
  int count = 0;
  for (size_t at = 0; (at = log.find(event, at)) != std::string::npos; ++at) ++count;
  return count;
}

bool Daemon::running() const {
  return pid_ > 0 && ::kill(pid_, 0) == 0;
}

namespace {

/// Whether every thread of a process has stopped: SIGSTOP returns before they have.
bool is_stopped(pid_t pid) {
  std::error_code error;
  for (const auto& task :
       std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task", error)) {
    const std::string stat = read_file(task.path() / "stat");
    const size_t state = stat.rfind(')');
    if (state == std::string::npos || state + 2 >= stat.size() || stat[state + 2] != 'T') {
      return false;
    }
  }
  return !error;
}

/// Where each thread of a process is: its name, and in what the kernel has it wait.
std::string where_threads_are(pid_t pid) {
  std::string text;
  std::error_code error;
  for (const auto& task :
       std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task", error)) {
    std::string name = read_file(task.path() / "comm");
    if (!name.empty()) name.pop_back();
    text += name + ": " + read_file(task.path() / "wchan") + "\n";
  }
  return text;
}

}  // namespace

void Daemon::signal(int number) const {
  if (pid_ <= 0) return;
  ::kill(pid_, number);
  const auto deadline = Clock::now() + kNeverThatSlow;
  while (number == SIGSTOP && !is_stopped(pid_)) {
    if (Clock::now() > deadline) die("boosterd does not stop at SIGSTOP");
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

void Daemon::kill(int signal) {
  if (pid_ <= 0) return;
  ::kill(pid_, signal);
  const auto deadline = Clock::now() + kNeverThatSlow;
  while (::waitpid(pid_, nullptr, WNOHANG) == 0) {
    if (Clock::now() > deadline) {
      const std::string threads = where_threads_are(pid_);
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
      pid_ = -1;
      die("boosterd did not end in time after signal " + std::to_string(signal) + "; " + threads +
          read_file(log_path_));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  pid_ = -1;
}

Daemon::~Daemon() {
  if (pid_ > 0) ::kill(pid_, SIGCONT);
  kill(SIGTERM);
  // What a sanitizer has seen in the daemon reaches nobody else.
  const std::string log = read_file(log_path_);
  for (const char* finding : {"WARNING: ThreadSanitizer", "ERROR: AddressSanitizer",
                              "runtime error:", "ERROR: LeakSanitizer"}) {
    const size_t at = log.find(finding);
    if (at != std::string::npos) ADD_FAILURE() << log.substr(at, 4000);
  }
  if (std::getenv("BOOSTER_TEST_SHOW_LOG") != nullptr) {
    std::fprintf(stderr, "%s", read_file(log_path_).c_str());
  }
}

booster::admin::Stats Daemon::stats() const {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, booster::common::kAdminSocket);
  booster::admin::Request request;
  request.mutable_stats();
  const std::string body = request.SerializeAsString();
  const uint32_t length = htonl(static_cast<uint32_t>(body.size()));
  std::string packet(reinterpret_cast<const char*>(&length), sizeof(length));
  packet += body;
  booster::admin::Response response;
  if (::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
      ::send(fd, packet.data(), packet.size(), MSG_NOSIGNAL) !=
          static_cast<ssize_t>(packet.size())) {
    die("the admin socket does not answer");
  }
  uint32_t answer_length = 0;
  if (::recv(fd, &answer_length, sizeof(answer_length), MSG_WAITALL) != sizeof(answer_length)) {
    die("no answer on the admin socket");
  }
  std::string answer(ntohl(answer_length), '\0');
  if (::recv(fd, answer.data(), answer.size(), MSG_WAITALL) !=
          static_cast<ssize_t>(answer.size()) ||
      !response.ParseFromString(answer) || !response.error().empty()) {
    die("bad answer on the admin socket: " + response.error());
  }
  ::close(fd);
  return response.stats();
}

uint64_t Daemon::boosted_read_bytes() const {
  const admin::Totals totals = stats().totals();
  return totals.read_bytes() + totals.cached_bytes();
}
uint64_t Daemon::boosted_write_bytes() const {
  return stats().totals().write_bytes();
}

std::string read_file(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return "";
  std::string all = drain_fd(fd);
  ::close(fd);
  return all;
}

void write_file(const std::string& path, const std::string& bytes) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) die("cannot write " + path + ": " + std::strerror(errno));
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t wrote = ::write(fd, bytes.data() + done, bytes.size() - done);
    if (wrote <= 0) die("cannot write " + path + ": " + std::strerror(errno));
    done += static_cast<size_t>(wrote);
  }
  if (::close(fd) != 0) die("cannot close " + path + ": " + std::strerror(errno));
}

void forget(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  ::close(fd);
}

std::string pattern(size_t size, uint64_t seed) {
  std::string bytes(size, '\0');
  uint64_t state = seed * 0x9e3779b97f4a7c15ULL + 1;
  for (size_t i = 0; i < size; ++i) {
    if (i % 8 == 0) {
      state ^= state << 13;
      state ^= state >> 7;
      state ^= state << 17;
    }
    bytes[i] = static_cast<char>(state >> (8 * (i % 8)));
  }
  return bytes;
}

uint64_t file_size(const std::string& path) {
  struct stat st {};
  return ::stat(path.c_str(), &st) == 0 ? static_cast<uint64_t>(st.st_size) : 0;
}

bool full_run() {
  const char* value = std::getenv("BOOSTER_TEST_FULL");
  return value != nullptr && std::strcmp(value, "1") == 0;
}

int rounds(std::string_view what) {
  const testing::TestInfo* test = testing::UnitTest::GetInstance()->current_test_info();
  std::string name = std::string(test->test_suite_name()) + "." + test->name();
  name = name.substr(0, name.find('/'));
  for (const Count& count : kCounts) {
    if (count.test != name || count.what != what) continue;
    if (!full_run()) return count.short_run;
    return Lab::get().shape == "one" || count.full_elsewhere == 0 ? count.full
                                                                  : count.full_elsewhere;
  }
  die("counts.h has no line for " + name);
}

// --- volumes -----------------------------------------------------------------------------------

namespace {

void change_volume(const std::vector<std::string>& words) {
  std::vector<std::string> command{"lab", "gluster", "volume"};
  command.insert(command.end(), words.begin(), words.end());
  const RunResult result = run(command, {.preload = false});
  EXPECT_EQ(result.status, 0) << result.out << result.err;
}

}  // namespace

VolumeOption::VolumeOption(std::string volume, std::string key, const std::string& value)
    : volume_(std::move(volume)), key_(std::move(key)) {
  change_volume({"set", volume_, key_, value});
}

VolumeOption::~VolumeOption() {
  change_volume({"reset", volume_, key_});
}

}  // namespace booster::test

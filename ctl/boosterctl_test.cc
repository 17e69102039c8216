// What boosterctl shows and how it fails, without GlusterFS: pure functions, and the program itself
// against a socket of the test that plays boosterd.
#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <regex>
#include <sstream>
#include <string>
#include <thread>

#include "ctl/output.h"
#include "ctl/stats_json.h"
#include "ctl/stats_text.h"
#include "ctl/units.h"
#include "proto/admin.pb.h"

namespace booster::ctl {
namespace {

using namespace std::chrono_literals;

// --- numbers -----------------------------------------------------------------------------

TEST(Units, BytesHaveThreeDigitsAndNeverFour) {
  EXPECT_EQ(bytes_text(0), "0 B");
  EXPECT_EQ(bytes_text(999), "999 B");
  EXPECT_EQ(bytes_text(1000), "0.98 KiB");
  EXPECT_EQ(bytes_text(1024), "1.00 KiB");
  EXPECT_EQ(bytes_text(10.0 * 1024 - 1), "10.0 KiB");
  EXPECT_EQ(bytes_text(1023.9 * 1024), "1.00 MiB");
  EXPECT_EQ(bytes_text(456.0 * (1 << 30)), "456 GiB");
  EXPECT_EQ(bytes_text(18446744073709551615.0), "16.0 EiB");
}

TEST(Units, CountsAreGrouped) {
  EXPECT_EQ(count_text(0), "0");
  EXPECT_EQ(count_text(999), "999");
  EXPECT_EQ(count_text(1000), "1,000");
  EXPECT_EQ(count_text(1234567), "1,234,567");
  EXPECT_EQ(count_of(1, "file"), "1 file");
  EXPECT_EQ(count_of(0, "file"), "0 files");
}

TEST(Units, DurationsUseTwoUnits) {
  EXPECT_EQ(duration_text(-1), "0.00 s");
  EXPECT_EQ(duration_text(0.25), "0.25 s");
  EXPECT_EQ(duration_text(59.94), "59.9 s");
  EXPECT_EQ(duration_text(59.99), "1 min 0 s");
  EXPECT_EQ(duration_text(245), "4 min 5 s");
  EXPECT_EQ(duration_text(3600 * 2 + 60 * 13 + 5), "2 h 13 min");
  EXPECT_EQ(duration_text(86400 * 3 + 3600 * 4), "3 d 4 h");
}

TEST(Units, LatencyChoosesTheUnit) {
  EXPECT_EQ(latency_text(0.5), "0.50 us");
  EXPECT_EQ(latency_text(103), "103 us");
  EXPECT_EQ(latency_text(999.7), "1.00 ms");
  EXPECT_EQ(latency_text(3.4e6), "3.40 s");
}

TEST(Output, ControlCharactersNeverReachTheTerminal) {
  EXPECT_EQ(printable("/mnt/a\x1b[31m\n"), "/mnt/a?[31m?");
  EXPECT_EQ(printable("/mnt/größe"), "/mnt/größe");
}

// --- pages -------------------------------------------------------------------------------

admin::Stats sample() {
  admin::Stats stats;
  stats.set_version("9.8.7");
  stats.set_pid(4711);
  stats.set_uptime_seconds(100);
  stats.mutable_process()->set_cpu_seconds(5);
  stats.mutable_process()->set_resident_bytes(84 << 20);
  stats.mutable_totals()->set_sessions_opened(9);
  stats.mutable_totals()->set_read_calls(1000);
  stats.mutable_totals()->set_read_bytes(3 << 20);
  stats.mutable_read_latency()->set_count(1000);
  stats.mutable_read_latency()->set_p50_us(103);
  stats.mutable_read_latency()->set_p99_us(1200);
  auto* passed = stats.add_passed();
  passed->set_reason("append");
  passed->set_calls(12);
  passed->set_bytes(1 << 20);
  passed = stats.add_passed();
  passed->set_reason("boosted");
  passed->set_bytes(123456789);
  auto* refused = stats.mutable_totals()->add_refused();
  refused->set_reason("set-id");
  refused->set_count(3);
  auto* mount = stats.add_mounts();
  mount->set_dev_minor(42);
  mount->set_mount_point("/mnt/vol");
  mount->set_source("server:/vol");
  mount->set_context(admin::Mount::READY);
  mount->set_threads(14);
  mount->set_connections(4);
  mount->set_build_seconds(0.51);
  auto* session = stats.add_sessions();
  session->set_id(1);
  session->set_pid(815);
  session->set_uid(1000);
  session->set_command("fio");
  session->set_read_bytes(3 << 20);
  auto* file = session->add_files();
  file->set_gfid("6d1f8ae3-0000-4000-8000-000000000001");
  file->set_dev_minor(42);
  file->set_inode(77);
  file->set_readable(true);
  return stats;
}

void expect_line(const std::string& page, const std::string& pattern) {
  EXPECT_TRUE(std::regex_search(page, std::regex(pattern))) << "no '" << pattern << "' in\n"
                                                            << page;
}

TEST(StatsText, ShowsWhatIsBoostedAndWhatIsNotAndWhy) {
  const std::string page = stats_text(sample());
  expect_line(page, "boosterd 9\\.8\\.7, pid 4711, up 1 min 40 s\n");
  expect_line(page, "CPU 5\\.00 s \\(5\\.0 %\\), memory 84\\.0 MiB");
  expect_line(page, "\nreads +1,000 +3\\.00 MiB +103 us +1\\.20 ms\n");
  expect_line(page, "\nwrites +0 +0 B +- +-\n");
  // 3 of 4 MiB: what clients say that they boosted does not count.
  expect_line(page, "75\\.0 % of the bytes were boosted");
  expect_line(page, "\nappend +12 +1\\.00 MiB\n");
  expect_line(page, "\nset-id +3\n");
  expect_line(page, "\n/mnt/vol +server:/vol +ready .* 14 .* 4 +0\\.51 s");
  expect_line(page, "\n815 +fio +1000 .* 3\\.00 MiB +0 B +0 B\n");
  expect_line(page, "6d1f8ae3-0000-4000-8000-000000000001 +77 +r +/mnt/vol +815\n");
  EXPECT_EQ(page.find("/s"), std::string::npos) << "rates without an earlier reading\n" << page;
}

TEST(StatsText, AFreshDaemonHasAPageToo) {
  const std::string page = stats_text(admin::Stats());
  expect_line(page, "No file of any mount has been engaged yet");
  expect_line(page, "0 sessions of 0");
}

TEST(StatsText, RatesComeFromTwoReadingsOfOneDaemon) {
  const admin::Stats before = sample();
  admin::Stats now = before;
  now.set_uptime_seconds(102);
  now.mutable_process()->set_cpu_seconds(6);
  now.mutable_totals()->set_read_calls(1500);
  now.mutable_totals()->set_read_bytes(5 << 20);
  now.mutable_sessions(0)->set_read_bytes(5 << 20);
  const std::string page = stats_text(now, &before);
  expect_line(page, "\nreads +1,500 +5\\.00 MiB +250/s +1\\.00 MiB/s");
  expect_line(page, "50\\.0 % now");
  expect_line(page, "\n815 .* 1\\.00 MiB/s +0 B/s\n");

  now.set_pid(4712);
  EXPECT_EQ(stats_text(now, &before).find("/s"), std::string::npos) << "rates across a restart";
}

TEST(StatsText, LongListsAreCutAndSaySo) {
  admin::Stats stats;
  for (int i = 0; i < 25; ++i) stats.add_sessions()->set_command("many");
  const std::string page = stats_text(stats);
  expect_line(page, "25 sessions");
  expect_line(page, "and 5 more: --json shows all");
}

TEST(StatsText, NamesFromElsewhereAreHarmless) {
  admin::Stats stats = sample();
  stats.mutable_mounts(0)->set_mount_point("/mnt/\x1b]0;evil\x07");
  stats.mutable_mounts(0)->set_error("line\nline");
  EXPECT_EQ(stats_text(stats).find_first_of("\x1b\x07"), std::string::npos);
}

// --- JSON --------------------------------------------------------------------------------

TEST(StatsJson, HasEveryFieldUnderItsProtoName) {
  const auto json = stats_json(sample());
  EXPECT_EQ(json["pid"], 4711);
  EXPECT_EQ(json["totals"]["read_bytes"], 3 << 20);
  EXPECT_TRUE(json["totals"]["read_bytes"].is_number_unsigned());
  EXPECT_EQ(json["totals"]["write_bytes"], 0);
  EXPECT_EQ(json["mounts"][0]["context"], "ready");
  EXPECT_EQ(json["sessions"][0]["files"][0]["readable"], true);
  EXPECT_EQ(json["sessions"][0]["passed"], nlohmann::ordered_json::array());
  EXPECT_EQ(json["write_latency"]["p99_us"], 0.0);
  // The order of admin.proto.
  EXPECT_EQ(json.begin().key(), "version");
}

TEST(StatsJson, AFreshDaemonHasTheSameShape) {
  const auto json = stats_json(admin::Stats());
  EXPECT_EQ(json["mounts"], nlohmann::ordered_json::array());
  EXPECT_EQ(json["totals"]["read_bytes"], 0);
  EXPECT_EQ(json["process"]["threads"], 0);
}

TEST(StatsJson, BytesThatAreNoUtf8DoNotFail) {
  nlohmann::ordered_json json;
  json["mount_point"] = "/mnt/\xff";
  EXPECT_EQ(json_text(json, -1), "{\"mount_point\":\"/mnt/\xef\xbf\xbd\"}");
}

TEST(StatsJson, LargeNumbersStayExact) {
  admin::Stats stats;
  stats.mutable_totals()->set_read_bytes(18446744073709551615ULL);
  EXPECT_NE(json_text(stats_json(stats), -1).find("\"read_bytes\":18446744073709551615,"),
            std::string::npos);
}

// --- the program -------------------------------------------------------------------------

struct Ended {
  int status = -1;  // as a shell shows it
  std::string out;
  std::string err;
};

class Program : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "boosterctl.XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
  }

  void TearDown() override {
    stop_server();
    std::filesystem::remove_all(dir_);
  }

  std::string socket_path() const { return dir_ / "admin.sock"; }

  /// Runs a shell line in which $ctl is boosterctl and $sock the admin socket.
  Ended sh(const std::string& line) const {
    const std::string script = fmt::format("ctl='{}' sock='{}'; cd '{}'; {}", BOOSTER_TEST_CTL,
                                           socket_path(), dir_.string(), line);
    const pid_t pid = ::fork();
    if (pid == 0) {
      const int out = ::open((dir_ / "out").c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0600);
      const int err = ::open((dir_ / "err").c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0600);
      ::dup2(out, STDOUT_FILENO);
      ::dup2(err, STDERR_FILENO);
      ::execl("/bin/bash", "bash", "-c", script.c_str(), nullptr);
      ::_exit(127);
    }
    int wait_status = 0;
    ::waitpid(pid, &wait_status, 0);
    const auto text = [this](const char* name) {
      std::stringstream content;
      content << std::ifstream(dir_ / name).rdbuf();
      return content.str();
    };
    return {WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status),
            text("out"), text("err")};
  }

  /// Plays boosterd: `answer` gets each connection, whose request is read already.
  void start_server(std::function<void(int)> answer) {
    server_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, socket_path().c_str(), sizeof address.sun_path - 1);
    ASSERT_EQ(::bind(server_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    ASSERT_EQ(::listen(server_, 8), 0);
    thread_ = std::thread([this, answer = std::move(answer)] {
      int connection = -1;
      while ((connection = ::accept4(server_, nullptr, nullptr, SOCK_CLOEXEC)) >= 0) {
        while (read_request(connection)) answer(connection);
        ::close(connection);
      }
    });
  }

  void stop_server() {
    if (!thread_.joinable()) return;
    ::shutdown(server_, SHUT_RDWR);
    thread_.join();
    ::close(server_);
  }

  static bool read_request(int connection) {
    uint32_t length = 0;
    if (::recv(connection, &length, sizeof length, MSG_WAITALL) != sizeof length) return false;
    std::string body(ntohl(length), '\0');
    if (::recv(connection, body.data(), body.size(), MSG_WAITALL) !=
        static_cast<ssize_t>(body.size())) {
      return false;
    }
    admin::Request request;
    return request.ParseFromString(body) && request.has_stats();
  }

  /// In many small pieces, as a stream socket may deliver it.
  static void send(int connection, const std::string& body) {
    const uint32_t length = htonl(static_cast<uint32_t>(body.size()));
    std::string message(reinterpret_cast<const char*>(&length), sizeof length);
    message += body;
    for (const char c : message) ::send(connection, &c, 1, MSG_NOSIGNAL);
  }

  static void send_sample(int connection) {
    admin::Response response;
    *response.mutable_stats() = sample();
    send(connection, response.SerializeAsString());
  }

  std::filesystem::path dir_;

 private:
  int server_ = -1;
  std::thread thread_;
};

void expect_one_line(const Ended& ended, int status, const std::string& pattern) {
  EXPECT_EQ(ended.status, status) << ended.err;
  EXPECT_EQ(ended.out, "");
  EXPECT_EQ(std::count(ended.err.begin(), ended.err.end(), '\n'), 1) << ended.err;
  EXPECT_TRUE(ended.err.starts_with("boosterctl: ")) << ended.err;
  expect_line(ended.err, pattern);
}

TEST_F(Program, ShowsStatistics) {
  start_server(send_sample);
  const Ended text = sh("$ctl --admin-socket $sock stats");
  EXPECT_EQ(text.status, 0) << text.err;
  EXPECT_EQ(text.out, stats_text(sample()));
  const Ended json = sh("$ctl stats --json --admin-socket $sock");
  EXPECT_EQ(json.status, 0) << json.err;
  EXPECT_EQ(nlohmann::ordered_json::parse(json.out), stats_json(sample()));
}

TEST_F(Program, WatchesAsLongAsSomebodyReads) {
  start_server(send_sample);
  const Ended text = sh("$ctl --admin-socket $sock stats --watch=0.2 | grep -m 2 ^boosterd");
  EXPECT_EQ(std::count(text.out.begin(), text.out.end(), '\n'), 2) << text.err;
  EXPECT_EQ(text.err, "");
  // One object a line.
  const Ended json = sh("$ctl --admin-socket $sock stats --json --watch 0.2 | head -n 2");
  EXPECT_EQ(std::count(json.out.begin(), json.out.end(), '\n'), 2) << json.err;
  EXPECT_EQ(nlohmann::json::parse(json.out.substr(0, json.out.find('\n')))["pid"], 4711);
}

TEST_F(Program, AWatchWithoutANumberWaitsASecond) {
  start_server(send_sample);
  const auto start = std::chrono::steady_clock::now();
  const Ended ended = sh("$ctl --admin-socket $sock stats --watch --json | head -n 3");
  EXPECT_EQ(std::count(ended.out.begin(), ended.out.end(), '\n'), 3) << ended.err;
  EXPECT_GE(std::chrono::steady_clock::now() - start, 2s);
}

TEST_F(Program, AWatchDoesNotNoticeThatTheDaemonClosesIdleConnections) {
  start_server([](int connection) {
    send_sample(connection);
    ::shutdown(connection, SHUT_RDWR);
  });
  const Ended ended = sh("$ctl --admin-socket $sock stats --watch=0.2 --json | head -n 3");
  EXPECT_EQ(std::count(ended.out.begin(), ended.out.end(), '\n'), 3);
  EXPECT_EQ(ended.err, "");
}

TEST_F(Program, AWatchGoesOnWhileTheDaemonIsRestarted) {
  std::atomic<int> answers = 0;
  start_server([&answers](int connection) {
    // The second reading, on the connection of the first and on a new one.
    if (++answers == 2 || answers == 3) {
      ::shutdown(connection, SHUT_RDWR);
    } else {
      send_sample(connection);
    }
  });
  const Ended ended = sh("$ctl --admin-socket $sock stats --watch=0.2 --json | head -n 2");
  EXPECT_EQ(std::count(ended.out.begin(), ended.out.end(), '\n'), 2);
  expect_line(ended.err, "boosterd ended before it had answered");
}

TEST_F(Program, SaysThatTheDaemonIsNotRunning) {
  const char* advice = "boosterd is not running .*systemctl start boosterd";
  expect_one_line(sh("$ctl --admin-socket $sock stats"), 3, advice);
  expect_one_line(sh("$ctl --admin-socket $sock stats --watch"), 3, advice);
  sh("python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"admin.sock\")'");
  expect_one_line(sh("$ctl --admin-socket $sock stats --json"), 3, advice);
}

TEST_F(Program, SaysWhoMayAsk) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to stop being root";
  start_server(send_sample);
  std::filesystem::permissions(dir_, std::filesystem::perms(0755));
  std::filesystem::permissions(socket_path(), std::filesystem::perms(0660));
  const std::string as_nobody = fmt::format(
      "cp $ctl ctl; chmod 755 ctl; exec setpriv --reuid 65534 --regid 65534 --clear-groups ./ctl ");
  expect_one_line(sh(as_nobody + "--admin-socket $sock stats"), 3,
                  "no permission .*sudo.*group booster");
}

TEST_F(Program, DoesNotWaitForeverForAnAnswer) {
  start_server([](int) {});
  const auto start = std::chrono::steady_clock::now();
  expect_one_line(sh("$ctl --admin-socket $sock stats"), 4, "does not answer .*within 5 s");
  EXPECT_LT(std::chrono::steady_clock::now() - start, 30s);
}

TEST_F(Program, ReportsWhatTheDaemonRefuses) {
  start_server([](int connection) {
    admin::Response response;
    response.set_error("no such request");
    send(connection, response.SerializeAsString());
  });
  expect_one_line(sh("$ctl --admin-socket $sock stats"), 1, "boosterd: no such request");
}

TEST_F(Program, SurvivesNonsenseAndAbruptEnds) {
  const char* nonsense[] = {"\xff\xff\xff\xff", "", "\xff\xff"};
  std::atomic<int> at = 0;
  start_server([&](int connection) {
    if (at == 0) {
      const std::array<unsigned char, 4> huge = {0xff, 0xff, 0xff, 0xff};
      ::send(connection, huge.data(), huge.size(), MSG_NOSIGNAL);
    } else {
      send(connection, nonsense[at]);
    }
  });
  for (at = 0; at < 3; ++at) {
    const Ended ended = sh("$ctl --admin-socket $sock stats");
    EXPECT_EQ(ended.status, 1) << at << ended.err;
    EXPECT_EQ(std::count(ended.err.begin(), ended.err.end(), '\n'), 1) << ended.err;
  }
}

TEST_F(Program, ReportsAnOutputThatCannotBeWritten) {
  start_server(send_sample);
  for (const char* command : {"stats", "stats --json", "version"}) {
    const std::string line = fmt::format("$ctl --admin-socket $sock {}", command);
    expect_one_line(sh(line + " >&-"), 1, "Bad file descriptor");
    expect_one_line(sh(line + " >/dev/full"), 1, "No space left");
    // A reader that has gone: by the signal, or without a word where it is ignored.
    EXPECT_EQ(sh(line + " | true; exit ${PIPESTATUS[0]}").err, "");
    const Ended ignored = sh("rm -f gone; mkfifo gone; exec 3<>gone 4>gone 3<&-; trap '' PIPE; " +
                             line + " >&4; echo $? >&2");
    EXPECT_EQ(ignored.err, "1\n") << command;
  }
}

TEST_F(Program, ExplainsBadArgumentsInOneLine) {
  for (const char* arguments :
       {"", "dance", "stats --jsn", "stats --watch=x", "stats --watch=0", "stats now",
        "stats -- ls", "--admin-socket", "--admin-socket '' stats", "run", "run --",
        "run --fast -- true", "run --logfile"}) {
    expect_one_line(sh(fmt::format("$ctl {}", arguments)), 2,
                    "see 'boosterctl |--admin-socket takes");
  }
  expect_one_line(sh("$ctl dance"), 2, "'dance' is no command");
  expect_one_line(sh("$ctl stats --watch=0"), 2, "from 0.1 to 86400, not '0'");
}

TEST_F(Program, HelpsAndHasAVersion) {
  for (const char* arguments : {"--help", "stats --help", "run --help"}) {
    const Ended ended = sh(fmt::format("$ctl {}", arguments));
    EXPECT_EQ(ended.status, 0);
    EXPECT_EQ(ended.err, "");
    expect_line(ended.out, "Usage: ");
  }
  expect_line(sh("$ctl version").out, "^boosterctl [0-9.]+\n$");
  EXPECT_EQ(sh("$ctl --version").out, sh("$ctl version").out);
}

TEST_F(Program, RunPreloadsTheShimBeforeOthers) {
  const Ended plain = sh("unset LD_PRELOAD; $ctl run -- printenv LD_PRELOAD");
  expect_line(plain.out, "^/.*/libbooster\\.so\n$");
  EXPECT_EQ(plain.err, "");
  EXPECT_TRUE(std::filesystem::exists(plain.out.substr(0, plain.out.size() - 1)));
  // A boosterctl built with the address sanitizer would refuse to come after another library.
  const Ended two =
      sh("ASAN_OPTIONS=verify_asan_link_order=0 LD_PRELOAD=libc.so.6 $ctl run printenv LD_PRELOAD");
  EXPECT_EQ(two.out, plain.out.substr(0, plain.out.size() - 1) + ":libc.so.6\n");
  // It is really loaded.
  expect_line(sh("$ctl run -- cat /proc/self/maps").out, "libbooster\\.so");
}

TEST_F(Program, RunPassesItsOptionsInTheEnvironment) {
  EXPECT_EQ(sh("$ctl run --eager --logfile log/x -- bash -c "
               "'echo $GLFS_BOOSTER_ENGAGE $GLFS_BOOSTER_LOGFILE'")
                .out,
            fmt::format("eager {}\n", (dir_ / "log/x").string()));
  EXPECT_EQ(sh("unset GLFS_BOOSTER_ENGAGE; $ctl run -- printenv GLFS_BOOSTER_ENGAGE").status, 1);
}

TEST_F(Program, RunLeavesTheProgramsArgumentsAlone) {
  EXPECT_EQ(sh("$ctl run -- printf '%s,' --eager -- --json ''").out, "--eager,--,--json,,");
  EXPECT_EQ(sh("$ctl run printf '%s,' --eager --help -- -- x").out, "--eager,--help,--,--,x,");
  EXPECT_EQ(sh("$ctl run --eager printf '%s,' a 'b c'").out, "a,b c,");
}

TEST_F(Program, RunEndsAsEnvDoes) {
  EXPECT_EQ(sh("$ctl run -- bash -c 'exit 7'").status, 7);
  EXPECT_EQ(sh("$ctl run -- bash -c 'kill -KILL $$'").status, 137);
  expect_one_line(sh("$ctl run -- /no/such/program"), 127, "/no/such/program: No such file");
  expect_one_line(sh("$ctl run -- no-such-program-anywhere"), 127, "No such file");
  expect_one_line(sh("touch plain; $ctl run -- ./plain"), 126, "Permission denied");
  expect_one_line(sh("cp $ctl lonely; ./lonely run -- true"), 125, "there is no libbooster.so");
}

TEST_F(Program, RunChangesNoSignalOrDescriptor) {
  EXPECT_EQ(sh("$ctl run -- grep SigIgn /proc/self/status").out,
            sh("grep SigIgn /proc/self/status").out);
  EXPECT_EQ(sh("$ctl run -- ls /proc/self/fd").out, sh("ls /proc/self/fd").out);
}

}  // namespace
}  // namespace booster::ctl

// libbooster.so as a guest: what it is linked to and exports, that programs which have nothing to
// do with GlusterFS do not notice it, that privileged programs do not have it, and what it logs.
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <regex>
#include <set>
#include <sstream>

#include "tests/integration/harness.h"
#include "tests/integration/puppet.h"

namespace booster::test {
namespace {

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

std::string output_of(const std::vector<std::string>& argv) {
  const RunResult result = run(argv, {.preload = false});
  EXPECT_EQ(result.status, 0) << argv[0] << ": " << result.err;
  return result.out;
}

// --- the library -------------------------------------------------------------------------------

TEST(Shim, NeedsNothingButLibc) {
  std::set<std::string> needed;
  const std::regex entry(R"(\(NEEDED\).*\[(.*)\])");
  for (const std::string& line : lines_of(output_of({"readelf", "-d", "-W", shim_path()}))) {
    std::smatch match;
    if (std::regex_search(line, match, entry)) needed.insert(match[1]);
  }
  EXPECT_EQ(needed, std::set<std::string>({"libc.so.6"}));
  // And libc, nothing but its loader.
  for (const std::string& line : lines_of(output_of({"ldd", shim_path()}))) {
    EXPECT_TRUE(std::regex_search(line, std::regex("libc\\.so|ld-linux|linux-vdso"))) << line;
  }
}

/// Names in the dynamic symbol table, without versions, by nm's letter.
std::set<std::string> symbols(const std::string& library, const std::string& letters) {
  std::set<std::string> names;
  const std::regex entry(R"(^[0-9a-f ]* ([A-Za-z]) ([^@]+))");
  for (const std::string& line : lines_of(output_of({"nm", "-D", library}))) {
    std::smatch match;
    if (std::regex_search(line, match, entry) &&
        letters.find(match[1].str()[0]) != std::string::npos) {
      names.insert(match[2]);
    }
  }
  return names;
}

TEST(Shim, ExportsExactlyWhatExportsTxtSays) {
  const std::string list =
      std::filesystem::path(__FILE__).parent_path().parent_path().parent_path() /
      "preload/exports.txt";
  std::set<std::string> wanted;
  for (const std::string& line : lines_of(read_file(list))) {
    if (!line.empty() && line[0] != '#') wanted.insert(line);
  }
  ASSERT_GT(wanted.size(), 100U);
  const std::set<std::string> exported = symbols(shim_path(), "TtWwDdBbRrVvIi");
  std::set<std::string> undefined = symbols(shim_path(), "Uwv");
  std::set<std::string> defined;
  std::set_difference(exported.begin(), exported.end(), undefined.begin(), undefined.end(),
                      std::inserter(defined, defined.end()));
  EXPECT_EQ(defined, wanted);
}

TEST(Shim, TakesEverySymbolFromLibc) {
  std::smatch match;
  const std::string libraries = output_of({"ldd", shim_path()});
  ASSERT_TRUE(std::regex_search(libraries, match, std::regex(R"((/\S*libc\.so\.6))")));
  std::set<std::string> provided = symbols(match[1], "TtWwDdBbRrVvIi");
  ASSERT_TRUE(std::regex_search(libraries, match, std::regex(R"((/\S*ld-linux\S*))")));
  provided.merge(symbols(match[1], "TtWwDdBbRrVvIi"));
  for (const std::string& name : symbols(shim_path(), "U")) {
    EXPECT_TRUE(provided.count(name)) << name << " is not libc's";
  }
  // What the linker adds to every library.
  const std::set<std::string> usual = {"__cxa_finalize", "__gmon_start__",
                                       "_ITM_deregisterTMCloneTable", "_ITM_registerTMCloneTable"};
  for (const std::string& name : symbols(shim_path(), "wv")) {
    EXPECT_TRUE(usual.count(name)) << "weak " << name;
  }
}

// --- programs that have nothing to do with GlusterFS -------------------------------------------

struct Trace {
  std::vector<std::string> calls;  // name and path of what opens, connects, starts
  std::string output;
};

/// What a program does that another process could notice, pids and numbers left out.
Trace trace(const std::vector<std::string>& command, bool preload, bool eager = false) {
  const std::string file = Lab::get().dir + "/strace";
  ::unlink(file.c_str());
  std::vector<std::string> argv = {
      "strace",
      "-f",
      "-qq",
      "-o",
      file,
      "-e",
      "signal=none",
      "-e",
      "trace=openat,openat2,open,creat,connect,socket,bind,sendto,sendmsg,clone,clone3,fork,vfork,"
      "memfd_create,unlink,rename,mkdir,kill,prctl,ptrace,io_uring_setup"};
  if (preload) {
    argv.insert(argv.end(), {"-E", "LD_PRELOAD=" + shim_path()});
    if (eager) argv.insert(argv.end(), {"-E", "GLFS_BOOSTER_ENGAGE=eager"});
  }
  argv.insert(argv.end(), command.begin(), command.end());
  const RunResult result = run(argv, {.preload = false});
  EXPECT_EQ(result.status, 0) << command[0] << result.err;
  Trace traced;
  traced.output = result.out + result.err;
  for (std::string line : lines_of(read_file(file))) {
    if (line.find("<unfinished") != std::string::npos) line += ")";
    // PID CALL(...) = RESULT
    line = std::regex_replace(line, std::regex(R"(^\d+ +)"), "");
    if (line.rfind("<...", 0) == 0 || line.rfind("+++", 0) == 0) continue;
    const std::string call = line.substr(0, line.find('('));
    std::smatch path;
    std::regex_search(line, path, std::regex("\"([^\"]*)\""));
    traced.calls.push_back(call + " " + path[1].str());
  }
  return traced;
}

TEST(Shim, ProgramsAwayFromTheMountDoTheSameCalls) {
  Daemon daemon;
  const std::string loaded = "openat " + shim_path();
  const std::vector<std::vector<std::string>> programs = {
      {"/bin/true"},
      {"cat", "/etc/passwd"},
      {"ls", "-l", "/etc"},
      {"python3", "-c", "pass"},
      {"cp", "/etc/passwd", Lab::get().dir + "/copied"},
      {"bash", "-c", "for i in 1 2 3; do echo $i | cat; done > /dev/null; /bin/true"},
      {"stat", Lab::get().mount},  // looks at the mount, and reads nothing there
  };
  for (const auto& program : programs) {
    trace(program, false);  // whatever happens at the first time only
    const Trace without = trace(program, false);
    Trace with = trace(program, true);
    const auto& calls = with.calls;
    EXPECT_GE(std::count(calls.begin(), calls.end(), loaded), 1) << program[0];
    with.calls.erase(std::remove(with.calls.begin(), with.calls.end(), loaded), with.calls.end());
    // Of programs with children, the children's calls come in any order.
    if (program[0] == "bash") {
      std::vector<std::string> sorted = without.calls;
      std::sort(sorted.begin(), sorted.end());
      std::sort(with.calls.begin(), with.calls.end());
      EXPECT_EQ(with.calls, sorted) << program[0];
    } else {
      EXPECT_EQ(with.calls, without.calls) << program[0];
    }
    EXPECT_EQ(with.output, without.output) << program[0];
  }
  EXPECT_EQ(daemon.stats().totals().sessions_opened(), 0U);
}

TEST(Shim, AProgramOnTheMountIsCaughtByTheSameTrace) {  // else the test above proves nothing
  Daemon daemon;
  ScratchDir dir;
  write_file(dir.file("a"), std::string(2 << 20, 'a'));
  const Trace with = trace({"cat", dir.file("a")}, true, true);
  EXPECT_TRUE(std::count(with.calls.begin(), with.calls.end(), "connect /run/booster/control.sock"))
      << with.calls.size();
}

// --- privileged programs -----------------------------------------------------------------------

/// A copy of the probe outside the mount.
class ProbeCopy {
 public:
  ProbeCopy() : path_(Lab::get().dir + "/probe-copy") {
    std::filesystem::copy_file(probe_path(), path_,
                               std::filesystem::copy_options::overwrite_existing);
    ::chmod(path_.c_str(), 0755);
  }
  ~ProbeCopy() { ::unlink(path_.c_str()); }
  ProbeCopy(const ProbeCopy&) = delete;
  ProbeCopy& operator=(const ProbeCopy&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

constexpr uid_t kNobody = 65534;

/// What the copy has of the daemon when it writes and reads on the mount as nobody.
struct Served {
  bool session = false;
  bool boosted = false;  // and not only a session: FUSE may have done all of its calls
};
Served served(const Daemon& daemon, const std::string& probe) {
  ScratchDir dir;
  const uint64_t opened = daemon.stats().totals().sessions_opened();
  const uint64_t bytes = daemon.boosted_write_bytes();
  const RunResult result =
      shell("echo make-and-check " + dir.file("a") + " 2000000 1 | " + probe + " puppet",
            {.uid = kNobody});
  EXPECT_EQ(result.out, "ready\nright\n") << result.err;
  const Served got{daemon.stats().totals().sessions_opened() > opened,
                   daemon.boosted_write_bytes() > bytes};
  EXPECT_TRUE(got.session || !got.boosted);
  return got;
}

TEST(Shim, SetIdProgramsAreLeftAlone) {
  Daemon daemon;
  ProbeCopy probe;
  // Else the rest proves nothing.
  EXPECT_TRUE(served(daemon, probe.path()).boosted) << kTooLittle;
  ::chmod(probe.path().c_str(), 04755);
  EXPECT_FALSE(served(daemon, probe.path()).session) << "set-user-id";
  ::chmod(probe.path().c_str(), 02755);
  EXPECT_FALSE(served(daemon, probe.path()).session) << "set-group-id";
  ::chmod(probe.path().c_str(), 0755);
  ASSERT_EQ(run({"setcap", "cap_net_bind_service+ep", probe.path()}, {.preload = false}).status, 0);
  EXPECT_FALSE(served(daemon, probe.path()).session) << "file capability";
  ASSERT_EQ(run({"setcap", "-r", probe.path()}, {.preload = false}).status, 0);
  EXPECT_TRUE(served(daemon, probe.path()).boosted) << kTooLittle;
}

// /etc/ld.so.preload reaches privileged programs, too, and then it is for the shim to do nothing.
TEST(Shim, EvenWhenItIsLoadedIntoAPrivilegedProgramItDoesNothing) {
  Daemon daemon;
  ProbeCopy probe;
  ScratchDir dir;
  const std::string overlay = Lab::get().dir + "/overlay";
  // In a mount namespace of its own: the real /etc is not changed.
  const auto run_with_ld_so_preload = [&](const std::string& command) {
    return run({"unshare", "--mount", "--propagation", "private", "bash", "-ec",
                "mkdir -p '" + overlay + "'; mount -t tmpfs none '" + overlay + "'; mkdir '" +
                    overlay + "'/{upper,work}; mount -t overlay none -o lowerdir=/etc,upperdir='" +
                    overlay + "'/upper,workdir='" + overlay + "'/work /etc; echo '" + shim_path() +
                    "' > /etc/ld.so.preload; export GLFS_BOOSTER_ENGAGE=eager; "
                    "exec setpriv --reuid 65534 --regid 65534 --clear-groups bash -c '" +
                    command + "'"},
               {.preload = false});
  };
  const auto work = [&](const std::string& name) {
    const RunResult result = run_with_ld_so_preload("echo make-and-check " + dir.file(name) +
                                                    " 2000000 1 | " + probe.path() + " puppet");
    EXPECT_EQ(result.out, "ready\nright\n") << result.err;
    return daemon.stats().totals().sessions_opened();
  };
  ASSERT_FALSE(std::filesystem::exists("/etc/ld.so.preload"));
  const uint64_t ordinary = work("a");
  EXPECT_GT(ordinary, 0U) << kTooLittle;  // it was loaded
  EXPECT_GT(daemon.boosted_write_bytes(), 0U) << kTooLittle;
  const uint64_t bytes = daemon.boosted_write_bytes();
  ::chmod(probe.path().c_str(), 04755);
  EXPECT_EQ(work("b"), ordinary);
  ::chmod(probe.path().c_str(), 0755);
  ASSERT_EQ(run({"setcap", "cap_net_bind_service+ep", probe.path()}, {.preload = false}).status, 0);
  EXPECT_EQ(work("c"), ordinary);
  EXPECT_EQ(daemon.boosted_write_bytes(), bytes);
  EXPECT_FALSE(std::filesystem::exists("/etc/ld.so.preload"));
}

// --- its log -----------------------------------------------------------------------------------

std::string log_after(const std::string& log, std::map<std::string, std::string> env,
                      const std::string& script) {
  ScratchDir dir;
  env["GLFS_BOOSTER_LOGFILE"] = log;
  const RunResult result = shell(
      script, {.eager = env.count("GLFS_BOOSTER_ENGAGE") == 0, .env = env, .cwd = dir.path()});
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(result.err, "");
  return read_file(log);
}

const char kWork[] =
    "dd if=/dev/zero of=a bs=1M count=3 status=none && cat a > b && cmp a b && cp -p a c && "
    "echo more >> c && rm a && mv b a && tail -c 5 c > /dev/null";

TEST(Shim, LogsNothingInNormalOperation) {
  const std::string log = Lab::get().dir + "/shim.log";
  ::unlink(log.c_str());
  {
    Daemon daemon;
    log_after(log, {}, kWork);
    EXPECT_GE(daemon.boosted_write_bytes(), 3U << 20) << kTooLittle;
    EXPECT_FALSE(std::filesystem::exists(log)) << read_file(log);
    log_after(log, {}, "cat /etc/passwd > /dev/null; python3 -c pass");
    EXPECT_FALSE(std::filesystem::exists(log)) << read_file(log);
  }
  log_after(log, {}, kWork);  // no daemon is nothing to complain about, either
  EXPECT_FALSE(std::filesystem::exists(log)) << read_file(log);
}

TEST(Shim, SaysOnceThatAValueIsBad) {
  const std::string log = Lab::get().dir + "/shim.log";
  ::unlink(log.c_str());
  Daemon daemon;
  const std::string lines = log_after(log, {{"GLFS_BOOSTER_ENGAGE", "sometimes"}},
                                      "exec dd if=/dev/zero of=a bs=1M "
                                      "count=3 status=none");
  EXPECT_EQ(lines_of(lines).size(), 1U) << lines;
  EXPECT_NE(lines.find("GLFS_BOOSTER_ENGAGE"), std::string::npos) << lines;
  ::unlink(log.c_str());
}

TEST(Shim, WithoutALogFileItComplainsOnStandardError) {
  Daemon daemon;
  ScratchDir dir;
  const RunResult result =
      run({"dd", "if=/dev/zero", "of=" + dir.file("a"), "bs=1M", "count=3", "status=none"},
          {.eager = false, .env = {{"GLFS_BOOSTER_ENGAGE", "sometimes"}}});
  EXPECT_EQ(result.status, 0);
  EXPECT_EQ(lines_of(result.err).size(), 1U) << result.err;
  EXPECT_NE(result.err.find("GLFS_BOOSTER_ENGAGE"), std::string::npos) << result.err;
}

}  // namespace
}  // namespace booster::test

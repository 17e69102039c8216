// Finds the shim beside this program, and sets the environment that it reads.
#include "ctl/run.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "ctl/failure.h"
#include "ctl/output.h"
#include "preload/env.h"

namespace booster::ctl {
namespace {

namespace fs = std::filesystem;

int fail(int status, const std::string& message) {
  complain(message);
  return status;
}

/// The shim that belongs to this boosterctl, or nothing.
fs::path find_shim() {
  std::error_code error;
  const fs::path self = fs::read_symlink("/proc/self/exe", error).parent_path();
  if (error) return {};
  for (const char* place : {BOOSTER_SHIM_INSTALLED, BOOSTER_SHIM_BUILT}) {
    fs::path shim = (self / place).lexically_normal();
    if (fs::is_regular_file(shim, error)) return shim;
  }
  return {};
}

/// Before whatever is preloaded already: what comes first sees a call first, and the others still
/// see what booster leaves alone.
bool add_preload(const std::string& shim) {
  std::string value = shim;
  // NOLINTNEXTLINE(concurrency-mt-unsafe): there is one thread
  if (const char* present = std::getenv("LD_PRELOAD"); present && *present) {
    value += ':';
    value += present;
  }
  return ::setenv("LD_PRELOAD", value.c_str(), 1) == 0;  // NOLINT(concurrency-mt-unsafe)
}

}  // namespace

int run(const RunOptions& options) {
  const fs::path shim = find_shim();
  if (shim.empty()) {
    return fail(kRunFailed,
                fmt::format("there is no libbooster.so where this boosterctl expects it "
                            "({} from its directory): install booster again",
                            BOOSTER_SHIM_INSTALLED));
  }
  // ld.so(8): the separators of LD_PRELOAD cannot be escaped.
  if (shim.string().find_first_of(" :") != std::string::npos) {
    return fail(kRunFailed, fmt::format("{} cannot be preloaded: its path has a space or a colon, "
                                        "which separate the names in LD_PRELOAD",
                                        shim.string()));
  }
  bool good = add_preload(shim.string());
  if (options.eager) {
    good =
        good && ::setenv(preload::env::kEngage, "eager", 1) == 0;  // NOLINT(concurrency-mt-unsafe)
  }
  if (!options.logfile.empty()) {
    // The program may change its directory before the shim opens the file.
    std::error_code error;
    const fs::path file = fs::absolute(options.logfile, error);
    if (error) return fail(kRunFailed, fmt::format("{}: {}", options.logfile, error.message()));
    // NOLINTNEXTLINE(concurrency-mt-unsafe)
    good = good && ::setenv(preload::env::kLogFile, file.c_str(), 1) == 0;
  }
  if (!good) return fail(kRunFailed, "out of memory");

  std::vector<char*> argv;
  for (const std::string& word : options.command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  ::execvp(argv[0], argv.data());
  const int error = errno;
  return fail(error == ENOENT ? kRunNotFound : kRunCannotExecute,
              fmt::format("{}: {}", options.command[0], strerrordesc_np(error)));
}

}  // namespace booster::ctl

// Starts a command so many times, one after the other, and says how long that took:
//   spawn COUNT PRELOAD|- COMMAND…
// The library is preloaded into the command alone.
#include <spawn.h>
#include <sys/wait.h>
#include <time.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

double seconds_now() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fputs("usage: spawn COUNT PRELOAD|- COMMAND…\n", stderr);
    return 2;
  }
  const long count = std::strtol(argv[1], nullptr, 10);
  std::string preload = std::string("LD_PRELOAD=") + argv[2];
  std::vector<char*> environment;
  for (char** at = environ; *at != nullptr; ++at) environment.push_back(*at);
  if (std::strcmp(argv[2], "-") != 0) environment.push_back(preload.data());
  environment.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", 1 /* O_WRONLY */, 0);
  const double start = seconds_now();
  for (long i = 0; i < count; ++i) {
    pid_t pid = 0;
    int status = 0;
    if (::posix_spawnp(&pid, argv[3], &actions, nullptr, argv + 3, environment.data()) != 0 ||
        ::waitpid(pid, &status, 0) != pid || status != 0) {
      std::fprintf(stderr, "spawn: %s failed\n", argv[3]);
      return 1;
    }
  }
  std::printf("{\"seconds\": %.6f, \"work\": %ld}\n", seconds_now() - start, count);
  return 0;
}

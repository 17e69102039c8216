#include "tests/integration/processes.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

namespace booster::test {

namespace {

namespace fs = std::filesystem;

/// The first line, or nothing: a thread may have ended.
std::string line_of(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

struct Status {
  char state = '?';
  pid_t parent = 0;
};

/// Of "PID (NAME) STATE PARENT …", where NAME may have anything in it.
Status status_of(const fs::path& process) {
  const std::string line = line_of(process / "stat");
  const size_t end = line.rfind(')');
  Status status;
  if (end == std::string::npos) return status;
  std::istringstream rest(line.substr(end + 1));
  rest >> status.state >> status.parent;
  return status;
}

}  // namespace

std::string what_children_do() {
  std::map<pid_t, pid_t> parents;
  std::error_code gone;
  for (fs::directory_iterator process("/proc", gone); process != fs::directory_iterator();
       process.increment(gone)) {
    const pid_t pid = std::atoi(process->path().filename().c_str());
    if (pid > 0) parents[pid] = status_of(process->path()).parent;
  }
  std::ostringstream text;
  for (const auto& [pid, parent] : parents) {
    pid_t above = parent;
    while (above != ::getpid() && parents.contains(above)) above = parents[above];
    if (above != ::getpid()) continue;
    const fs::path tasks = "/proc/" + std::to_string(pid) + "/task";
    for (fs::directory_iterator task(tasks, gone); task != fs::directory_iterator();
         task.increment(gone)) {
      const fs::path& path = task->path();
      text << pid << " " << line_of(path / "comm") << " " << status_of(path).state << " in "
           << line_of(path / "wchan") << ", system call " << line_of(path / "syscall") << "\n";
    }
  }
  return text.str();
}

}  // namespace booster::test

// The programs that are measured: each workload of bench/run, with ordinary files or with libgfapi
// (bench/io.h). Prints one line of JSON: seconds of the measured part, the work done in it, and
// the processor time that the whole machine spent meanwhile. What it reads it compares with what
// the file must hold, so that nothing wrong is ever fast.
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bench/io.h"

namespace booster::bench {

void fail(const std::string& what) {
  std::fprintf(stderr, "workload: %s\n", what.c_str());
  // Not exit(): a child must not run the parent's handlers.
  ::_exit(1);
}

namespace {

constexpr uint64_t kKiB = 1024;
constexpr uint64_t kMiB = 1024 * kKiB;
constexpr size_t kSmall = 4 * kKiB;
constexpr size_t kLarge = kMiB;

struct Options {
  std::string where;   // bench/io.h
  std::string file;    // its name, or for procs the beginning of it
  uint64_t bytes = 0;  // of the file
  uint64_t calls = 0;  // for those that are measured by calls
  uint64_t step = 0;   // bytes of a call, for those that have no size in their names
  uint64_t seed = 1;
  int processes = 1;
};

double seconds_now() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

/// Processor time of everybody on this machine so far: a file system's work is done in many
/// processes and in the kernel.
double machine_cpu_seconds() {
  std::ifstream stat("/proc/stat");
  std::string label;
  uint64_t user = 0, nice = 0, system = 0, idle = 0, wait = 0, irq = 0, soft_irq = 0;
  stat >> label >> user >> nice >> system >> idle >> wait >> irq >> soft_irq;
  return static_cast<double>(user + nice + system + irq + soft_irq) /
         static_cast<double>(::sysconf(_SC_CLK_TCK));
}

// --- contents --------------------------------------------------------------------------------

/// What eight bytes at a multiple of eight hold. Version 0 is what `fill` writes.
uint64_t word_at(uint64_t offset, uint64_t version) {
  uint64_t x = offset / 8 + version * 0x9e3779b97f4a7c15ULL + 1;
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdULL;
  x ^= x >> 33;
  return x;
}

void fill_buffer(void* buffer, size_t length, uint64_t offset, uint64_t version) {
  auto* words = static_cast<uint64_t*>(buffer);
  for (size_t i = 0; i < length / 8; ++i) words[i] = word_at(offset + i * 8, version);
}

/// One word of each 4 KiB, or the measuring would cost more than what is measured.
void expect(const void* buffer, size_t length, uint64_t offset) {
  // Of shorter calls the first word of those that begin at one.
  if (length < kSmall && offset % kSmall != 0) return;
  for (size_t at = 0; at < length; at += kSmall) {
    const size_t where = at + (length < kSmall ? 0 : offset / kSmall % (kSmall / 8) * 8);
    uint64_t word = 0;
    std::memcpy(&word, static_cast<const char*>(buffer) + where, sizeof word);
    if (word != word_at(offset + where, 0)) {
      fail("wrong bytes at offset " + std::to_string(offset + where));
    }
  }
}

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15ULL | 1) {}
  uint64_t below(uint64_t bound) {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_ % bound;
  }

 private:
  uint64_t state_;
};

using Buffer = std::unique_ptr<char[]>;

// --- measuring -------------------------------------------------------------------------------

struct Measured {
  double seconds = 0;
  double cpu_seconds = 0;
};

Measured measure(const std::function<void()>& work) {
  const double cpu = machine_cpu_seconds();
  const double start = seconds_now();
  work();
  return {seconds_now() - start, machine_cpu_seconds() - cpu};
}

/// Runs `prepare` and then `work` in so many processes; what is measured is from the moment when
/// all are prepared until all are done.
Measured measure_in_processes(int count, const std::function<void(int)>& prepare,
                              const std::function<void(int)>& work) {
  struct Gate {
    std::atomic<int> ready;
    std::atomic<int> open;
  };
  void* page =
      ::mmap(nullptr, sizeof(Gate), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) fail("no memory");
  auto* gate = new (page) Gate{};
  std::vector<pid_t> children;
  for (int i = 0; i < count; ++i) {
    const pid_t pid = ::fork();
    if (pid < 0) fail("cannot fork");
    if (pid == 0) {
      prepare(i);
      gate->ready.fetch_add(1);
      while (gate->open.load() == 0) ::usleep(200);
      work(i);
      ::_exit(0);
    }
    children.push_back(pid);
  }
  while (gate->ready.load() < count) {
    int status = 0;
    if (::waitpid(-1, &status, WNOHANG) > 0) fail("a process ended early");
    ::usleep(1000);
  }
  return measure([&] {
    gate->open.store(1);
    for (const pid_t pid : children) {
      int status = 0;
      if (::waitpid(pid, &status, 0) != pid || status != 0) fail("a process failed");
    }
  });
}

int report(const Measured& measured, uint64_t work) {
  std::printf("{\"seconds\": %.6f, \"cpu_seconds\": %.2f, \"work\": %llu}\n", measured.seconds,
              measured.cpu_seconds, static_cast<unsigned long long>(work));
  return std::fflush(stdout) == 0 ? 0 : 1;
}

// --- reads -----------------------------------------------------------------------------------

void read_through(File& file, uint64_t bytes, size_t step, char* buffer) {
  file.rewind();
  for (uint64_t at = 0; at < bytes; at += step) {
    file.read(buffer, step);
    expect(buffer, step, at);
  }
}

void pread_randomly(File& file, const Options& options, uint64_t seed, char* buffer) {
  Random random(seed);
  for (uint64_t i = 0; i < options.calls; ++i) {
    const uint64_t offset = random.below(options.bytes / kSmall) * kSmall;
    file.pread(buffer, kSmall, offset);
    expect(buffer, kSmall, offset);
  }
}

/// Reads the file until everything that caches has had its chance.
void warm(File& file, const Options& options, char* buffer) {
  constexpr int kPasses = 3;
  for (int i = 0; i < kPasses; ++i) read_through(file, options.bytes, kLarge, buffer);
}

int hot_pread(const Options& options) {
  const Buffer buffer(new char[kLarge]);
  const auto file = open_file(options.file, Open::kRead);
  warm(*file, options, buffer.get());
  const auto measured =
      measure([&] { pread_randomly(*file, options, options.seed, buffer.get()); });
  return report(measured, options.calls * kSmall);
}

int hot_read(const Options& options, size_t step) {
  constexpr uint64_t kRepeat = 4;
  const Buffer buffer(new char[kLarge]);
  const auto file = open_file(options.file, Open::kRead);
  warm(*file, options, buffer.get());
  const auto measured = measure([&] {
    for (uint64_t i = 0; i < kRepeat; ++i) read_through(*file, options.bytes, step, buffer.get());
  });
  return report(measured, options.bytes * kRepeat);
}

/// One pass of a program over its file.
int read_once(const Options& options, size_t step) {
  const Buffer buffer(new char[step]);
  const auto measured = measure([&] {
    const auto file = open_file(options.file, Open::kRead);
    read_through(*file, options.bytes, step, buffer.get());
  });
  return report(measured, options.bytes);
}

/// Several programs that read the same file at the same time.
int read_together(const Options& options) {
  const auto work = [&](int) {
    const Buffer buffer(new char[options.step]);
    const auto file = open_file(options.file, Open::kRead);
    read_through(*file, options.bytes, options.step, buffer.get());
  };
  return report(measure_in_processes(
                    options.processes, [&](int) { start_io(options.where); }, work),
                options.bytes * static_cast<uint64_t>(options.processes));
}

int cold_pread(const Options& options) {
  const Buffer buffer(new char[kSmall]);
  std::unique_ptr<File> file;
  const auto work = [&](int number) {
    pread_randomly(*file, options, options.seed * 64 + static_cast<uint64_t>(number), buffer.get());
    file.reset();
  };
  const uint64_t bytes = options.calls * kSmall * static_cast<uint64_t>(options.processes);
  if (options.processes == 1) {
    file = open_file(options.file, Open::kRead);
    return report(measure([&] { work(0); }), bytes);
  }
  return report(measure_in_processes(
                    options.processes,
                    [&](int) {
                      start_io(options.where);  // libgfapi does not survive a fork
                      file = open_file(options.file, Open::kRead);
                    },
                    work),
                bytes);
}

// --- writes ----------------------------------------------------------------------------------

/// Until the bricks have everything.
int write_through(const Options& options, size_t step, Open how = Open::kCreate) {
  std::unique_ptr<File> file;
  const auto work = [&](int) {
    const Buffer buffer(new char[step]);
    for (uint64_t at = 0; at < options.bytes; at += step) {
      const size_t part = std::min<uint64_t>(step, options.bytes - at);
      fill_buffer(buffer.get(), part, at, options.seed);
      file->write(buffer.get(), part);
    }
    file->data_sync();
    file.reset();
  };
  if (options.processes == 1) {
    file = open_file(options.file, how);
    return report(measure([&] { work(0); }), options.bytes);
  }
  const auto prepare = [&](int number) {
    start_io(options.where);
    file = open_file(options.file + "-" + std::to_string(number), how);
  };
  return report(measure_in_processes(options.processes, prepare, work),
                options.bytes * static_cast<uint64_t>(options.processes));
}

int pwrite_random(const Options& options) {
  const Buffer buffer(new char[kSmall]);
  const auto file = open_file(options.file, Open::kReadWrite);
  Random random(options.seed);
  const auto measured = measure([&] {
    for (uint64_t i = 0; i < options.calls; ++i) {
      const uint64_t offset = random.below(options.bytes / kSmall) * kSmall;
      // Version 0: the file's bytes stay what they were, and reads can be checked by everybody.
      fill_buffer(buffer.get(), kSmall, offset, 0);
      file->pwrite(buffer.get(), kSmall, offset);
    }
    file->data_sync();
  });
  return report(measured, options.calls * kSmall);
}

int write_sync(const Options& options) {
  const Buffer buffer(new char[kSmall]);
  const auto file = open_file(options.file, Open::kCreate);
  const auto measured = measure([&] {
    for (uint64_t i = 0; i < options.calls; ++i) {
      fill_buffer(buffer.get(), kSmall, i * kSmall, options.seed);
      file->write(buffer.get(), kSmall);
      file->data_sync();
    }
  });
  return report(measured, options.calls * kSmall);
}

/// As a database does.
int commits(const Options& options) {
  const Buffer buffer(new char[kSmall]);
  const auto file = open_file(options.file, Open::kCreate);
  const auto measured = measure([&] {
    for (uint64_t i = 0; i < options.calls; ++i) {
      file->lock();
      fill_buffer(buffer.get(), kSmall, i * kSmall, options.seed);
      file->write(buffer.get(), kSmall);
      file->data_sync();
      file->unlock();
    }
  });
  return report(measured, options.calls * kSmall);
}

/// One program that reads and writes its file.
int read_and_write(const Options& options) {
  constexpr size_t kStep = 16 * kKiB;
  const Buffer buffer(new char[kStep]);
  const auto file = open_file(options.file, Open::kReadWrite);
  Random random(options.seed);
  const auto measured = measure([&] {
    for (uint64_t i = 0; i < options.calls; ++i) {
      const bool reads = random.below(2) == 0;
      const uint64_t offset = random.below(options.bytes / kStep) * kStep;
      if (reads) {
        file->pread(buffer.get(), kStep, offset);
        expect(buffer.get(), kStep, offset);
      } else {
        fill_buffer(buffer.get(), kStep, offset, 0);
        file->pwrite(buffer.get(), kStep, offset);
      }
    }
    file->data_sync();
  });
  return report(measured, options.calls * kStep);
}

int mixed(const Options& options) {
  const Buffer buffer(new char[kSmall]);
  std::unique_ptr<File> file;
  const auto work = [&](int number) {
    Random random(options.seed * 64 + static_cast<uint64_t>(number));
    for (uint64_t i = 0; i < options.calls; ++i) {
      const bool reads = random.below(10) < 7;
      const uint64_t offset = random.below(options.bytes / kSmall) * kSmall;
      if (reads) {
        file->pread(buffer.get(), kSmall, offset);
        expect(buffer.get(), kSmall, offset);
      } else {
        fill_buffer(buffer.get(), kSmall, offset, 0);
        file->pwrite(buffer.get(), kSmall, offset);
      }
    }
    file->data_sync();
    file.reset();
  };
  return report(measure_in_processes(
                    options.processes,
                    [&](int) {
                      start_io(options.where);
                      file = open_file(options.file, Open::kReadWrite);
                    },
                    work),
                options.calls * kSmall * static_cast<uint64_t>(options.processes));
}

/// Writes what the others expect.
int fill(const Options& options) {
  const Buffer buffer(new char[kLarge]);
  const auto file = open_file(options.file, Open::kCreate);
  const auto measured = measure([&] {
    for (uint64_t at = 0; at < options.bytes; at += kLarge) {
      const size_t step = std::min<uint64_t>(kLarge, options.bytes - at);
      fill_buffer(buffer.get(), step, at, 0);
      file->write(buffer.get(), step);
    }
    file->data_sync();
  });
  return report(measured, options.bytes);
}

// --- the program -----------------------------------------------------------------------------

/// Each process starts its own I/O, as 64 programs would; that is part of what they cost.
int many_processes(const Options& options) {
  const auto work = [&](int number) {
    const Buffer buffer(new char[kLarge]);
    start_io(options.where);
    const auto file = open_file(options.file + std::to_string(number), Open::kRead);
    read_through(*file, options.bytes, kLarge, buffer.get());
  };
  return report(measure_in_processes(
                    options.processes, [](int) {}, work),
                options.bytes * static_cast<uint64_t>(options.processes));
}

uint64_t number(const std::string& text) {
  char* end = nullptr;
  errno = 0;
  const uint64_t value = std::strtoull(text.c_str(), &end, 10);
  if (errno != 0 || end == text.c_str() || *end != '\0') fail("'" + text + "' is no number");
  return value;
}

int run(const std::vector<std::string>& arguments) {
  if (arguments.size() < 2 || arguments.size() % 2 != 0) {
    fail("usage: NAME WHERE [file|bytes|calls|step|seed|processes VALUE]…");
  }
  Options options;
  for (size_t i = 2; i < arguments.size(); i += 2) {
    const std::string& key = arguments[i];
    const std::string& value = arguments[i + 1];
    if (key == "file") {
      options.file = value;
    } else if (key == "bytes") {
      options.bytes = number(value);
    } else if (key == "calls") {
      options.calls = number(value);
    } else if (key == "step") {
      options.step = number(value);
    } else if (key == "seed") {
      options.seed = number(value);
    } else if (key == "processes") {
      options.processes = static_cast<int>(number(value));
    } else {
      fail("no such option: " + key);
    }
  }
  options.where = arguments[1];
  const std::string& name = arguments[0];
  const std::map<std::string, std::function<int(const Options&)>> workloads = {
      {"hot-pread-4k", hot_pread},
      {"hot-read-4k", [](const Options& o) { return hot_read(o, kSmall); }},
      {"hot-read-1m", [](const Options& o) { return hot_read(o, kLarge); }},
      {"cold-read-4k-seq", [](const Options& o) { return read_once(o, kSmall); }},
      {"cold-read-1m-seq", [](const Options& o) { return read_once(o, kLarge); }},
      {"cold-pread-4k-rand", cold_pread},
      {"read-once", [](const Options& o) { return read_once(o, o.step); }},
      {"read-together", read_together},
      {"write-4k-seq", [](const Options& o) { return write_through(o, kSmall); }},
      {"write-1m-seq", [](const Options& o) { return write_through(o, kLarge); }},
      {"write-200b", [](const Options& o) { return write_through(o, 200); }},
      {"write-16k-seq", [](const Options& o) { return write_through(o, 16 * kKiB); }},
      {"write-64k-seq", [](const Options& o) { return write_through(o, 64 * kKiB); }},
      {"append-200b", [](const Options& o) { return write_through(o, 200, Open::kAppend); }},
      {"commit-4k", commits},
      {"rw-16k", read_and_write},
      {"pwrite-4k-rand", pwrite_random},
      {"write-4k-fsync", write_sync},
      {"mixed-70-30", mixed},
      {"fill", fill},
      {"procs", many_processes},
  };
  const auto found = workloads.find(name);
  if (found == workloads.end()) fail("no such workload: " + name);
  if (options.processes == 1) start_io(options.where);  // else each process starts its own
  return found->second(options);
}

}  // namespace
}  // namespace booster::bench

int main(int argc, char** argv) {
  return booster::bench::run(std::vector<std::string>(argv + 1, argv + argc));
}

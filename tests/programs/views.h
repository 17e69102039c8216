// The ways to a file's bytes that a puppet (probe.cc) has besides calls on its descriptor: a shared
// mapping, and a stream. There is at most one of each for a descriptor, made when it is told to.
#pragma once

#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <string>

namespace booster::test {

class Views {
 public:
  /// All of these return as system calls do: -1 and errno when it cannot be done.
  long map(int fd, size_t length, bool writable) {
    void* const start =
        mmap(nullptr, length, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
    if (start == MAP_FAILED) return -1;
    maps_[fd] = {start, length};
    return 0;
  }

  long store(int fd, size_t offset, const std::string& bytes) {
    const auto found = maps_.find(fd);
    if (found == maps_.end()) return missing();
    memcpy(static_cast<char*>(found->second.start) + offset, bytes.data(), bytes.size());
    return static_cast<long>(bytes.size());
  }

  /// The kernel copies, and stops where a touch would be a SIGBUS.
  long load(int fd, std::string& bytes) {
    const auto found = maps_.find(fd);
    if (found == maps_.end()) return missing();
    const iovec from{found->second.start, bytes.size()};
    const iovec to{bytes.data(), bytes.size()};
    return process_vm_readv(getpid(), &to, 1, &from, 1, 0);
  }

  long stream(int fd, bool writable) {
    FILE* const made = fdopen(fd, writable ? "r+" : "r");
    if (made == nullptr) return -1;
    streams_[fd] = made;
    return 0;
  }

  /// By fwrite, and out of the stream's buffer.
  long put(int fd, off_t offset, const std::string& bytes) {
    const auto found = streams_.find(fd);
    if (found == streams_.end()) return missing();
    FILE* const to = found->second;
    if (fseeko(to, offset, SEEK_SET) != 0) return -1;
    if (fwrite(bytes.data(), 1, bytes.size(), to) != bytes.size() || fflush(to) != 0) return -1;
    return static_cast<long>(bytes.size());
  }

  /// From the start on, by freads of `piece`, none of it out of the stream's buffer. The first byte
  /// comes by fgetc.
  long get(int fd, std::string& bytes, size_t piece) {
    const auto found = streams_.find(fd);
    if (found == streams_.end()) return missing();
    FILE* const from = found->second;
    // A seek stays inside the buffer where it can, even after fflush.
    if (fseeko(from, kFarOut, SEEK_SET) != 0 || fseeko(from, 0, SEEK_SET) != 0) return -1;
    const int first = fgetc(from);
    if (first == EOF) return ferror(from) != 0 ? -1 : 0;
    bytes[0] = static_cast<char>(first);
    size_t done = 1;
    while (done < bytes.size()) {
      const size_t wanted = std::min(piece, bytes.size() - done);
      const size_t got = fread(bytes.data() + done, 1, wanted, from);
      done += got;
      if (got < wanted) break;
    }
    return ferror(from) != 0 ? -1 : static_cast<long>(done);
  }

  /// Without them the descriptor is as it was made; with a stream, closed. True if it is closed.
  bool drop(int fd) {
    if (const auto map = maps_.find(fd); map != maps_.end()) {
      munmap(map->second.start, map->second.length);
      maps_.erase(map);
    }
    const auto stream = streams_.find(fd);
    if (stream == streams_.end()) return false;
    fclose(stream->second);
    streams_.erase(stream);
    return true;
  }

 private:
  static constexpr off_t kFarOut = off_t{1} << 30;

  struct Mapping {
    void* start;
    size_t length;
  };

  static long missing() {
    errno = ENOENT;
    return -1;
  }

  std::map<int, Mapping> maps_;
  std::map<int, FILE*> streams_;
};

}  // namespace booster::test

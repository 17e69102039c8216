// Memory that a test and its programs share: a file outside the mount that each of them maps.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>

namespace booster::test {

/// The `T` that the file at `path` holds; nullptr with errno if it cannot be mapped.
template <typename T>
T* map_shared(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return nullptr;
  void* const start = ::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  ::close(fd);
  return start == MAP_FAILED ? nullptr : static_cast<T*>(start);
}

}  // namespace booster::test

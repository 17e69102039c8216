// A program that touches what it was given of the page cache beyond the file's end harms nobody.
#include <gtest/gtest.h>

#include <string>

#include "tests/integration/harness.h"

namespace booster::test {
namespace {

/// Reads the file until it is in the cache, touches the rest of the mapping, waits until that is
/// taken back, and reads on.
constexpr const char* kRead = R"(
import ctypes, os, subprocess, sys, time
path, ctl = sys.argv[1:]
kPage, kData = 4096, 2 << 30
fd = os.open(path, os.O_RDONLY)
size = os.fstat(fd).st_size
def read():
    return b''.join(os.pread(fd, 65536, at) for at in range(0, size, 65536))
def filled():
    text = subprocess.run([ctl, 'stats'], capture_output=True, text=True, check=True,
                          env={'PATH': os.environ['PATH']}).stdout
    lines = [line for line in text.splitlines() if 'came from the bricks' in line]
    return lines[0].split(';')[1].split(',')[0]
whole = read()
def data():
    for line in open('/proc/self/maps'):
        fields = line.split()
        start, end = (int(word, 16) for word in fields[0].split('-'))
        offset = int(fields[2], 16)
        if 'deleted' in line and offset <= kData < offset + end - start:
            return fields[0], start + kData - offset, end
    return None
end = time.time() + 60
while time.time() < end and not data(): assert read() == whole
mapping, start, end = data()
time.sleep(2.5)  # what is filled soon after a change is dropped once more
for i in range(20): assert read() == whole
before = filled()
def held():
    status = os.stat('/proc/self/map_files/' + mapping)
    return status.st_blocks * 512
few = held()
for at in range(start + size, end, kPage): ctypes.string_at(at, 1)
many = held()
assert many > few + (4 << 20), (few, many)
for i in range(600):
    if held() <= few: break
    time.sleep(0.1)
assert size < held() <= few, (size, few, many, held())
assert read() == whole
after = filled()
assert before == after, (before, after)
)";

TEST(StrayCache, WhatIsTouchedBeyondTheFileIsTakenBackAndTheFileStays) {
  const Daemon daemon;
  const ScratchDir dir;
  const std::string path = dir.file("it");
  write_file(path, pattern(5 << 20, 3));
  forget(path);
  const RunResult result = run({"python3", "-c", kRead, path, boosterctl_path()});
  EXPECT_EQ(result.status, 0) << result.err;
}

}  // namespace
}  // namespace booster::test

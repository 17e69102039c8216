// Stands for a set-user-id (or set-group-id, or capable) program of the host that opens a file
// which its caller may not open: the file whose path and descriptor number it is given. It never
// hands the descriptor to its caller.
//
//   privileged_helper FILE NUMBER keep               holds it until it is killed
//   privileged_helper FILE NUMBER leave COMMAND…     once a byte comes on standard input: gives up
//                                                    its privileges for good, then becomes COMMAND;
//                                                    the descriptor is closed by that exec
#include <fcntl.h>
#include <grp.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  const int number = std::atoi(argv[2]);
  const int fd = ::open(argv[1], O_RDWR | O_CLOEXEC);
  const int readable = fd >= 0 ? fd : ::open(argv[1], O_RDONLY | O_CLOEXEC);
  if (readable < 0) {
    std::perror(argv[1]);
    return 1;
  }
  if (readable != number && (::dup3(readable, number, O_CLOEXEC) < 0 || ::close(readable) != 0)) {
    return 1;
  }
  if (std::strcmp(argv[3], "keep") == 0) {
    while (true) ::pause();
  }
  char byte = 0;
  if (argc < 5 || ::read(STDIN_FILENO, &byte, 1) != 1) return 2;
  if (::setresgid(::getgid(), ::getgid(), ::getgid()) != 0 ||
      ::setresuid(::getuid(), ::getuid(), ::getuid()) != 0) {
    return 1;
  }
  ::execv(argv[4], argv + 4);
  return 1;
}

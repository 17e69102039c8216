// How a command of boosterctl fails: one line for a person and one number for a script.
#pragma once

#include <string>
#include <variant>

namespace booster::ctl {

/// Exit statuses. `run` has env(1)'s instead: 125 to 127, else the program's own.
enum class Exit : int {
  kOk = 0,
  kFailed = 1,       // boosterd answered with an error, or the output could not be written
  kUsage = 2,        // bad arguments
  kUnreachable = 3,  // boosterd is not running, or may not be asked
  kNoAnswer = 4,     // boosterd did not answer in time
};

/// Where env(1) ends itself and not the program that it was told to run.
inline constexpr int kRunFailed = 125;
inline constexpr int kRunCannotExecute = 126;
inline constexpr int kRunNotFound = 127;

struct Failure {
  Exit exit;
  std::string message;  // without "boosterctl: " and without a newline
};

template <class T>
using Outcome = std::variant<T, Failure>;

}  // namespace booster::ctl

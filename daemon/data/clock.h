#pragma once

#include <chrono>

namespace booster::daemon::data {

using Clock = std::chrono::steady_clock;

}  // namespace booster::daemon::data

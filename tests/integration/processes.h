// What processes are doing at a moment, for people who were not there.
#pragma once

#include <sys/types.h>

#include <string>

namespace booster::test {

/// A line for each thread of the processes that this one has started, directly or not: what it
/// waits for in the kernel, and in which system call.
std::string what_children_do();

}  // namespace booster::test

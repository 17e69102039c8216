// Statistics for scripts: the fields of booster.admin.Stats under their own names.
#pragma once

#include <nlohmann/json.hpp>

#include "proto/admin.pb.h"

namespace booster::ctl {

/// Every field of admin.proto is there, also those that are zero or empty, in the order of the
/// file. Numbers are numbers, lists are arrays, an enumeration is its name in lower case. So the
/// shape is as stable as admin.proto: fields may come, none changes its meaning.
nlohmann::ordered_json stats_json(const admin::Stats& stats);

/// The JSON text; bytes that are no UTF-8 (a mount point can have any) become U+FFFD. `indent` < 0:
/// on one line.
std::string json_text(const nlohmann::ordered_json& json, int indent);

}  // namespace booster::ctl

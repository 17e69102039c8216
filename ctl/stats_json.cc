// Walks a message by protobuf's reflection, so that a new field needs no second list of names here.
// protobuf's own JSON is not used, as it turns 64-bit numbers into strings.
#include "ctl/stats_json.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <algorithm>
#include <cctype>

namespace booster::ctl {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using nlohmann::ordered_json;

ordered_json message_json(const Message& message);

std::string lower_case(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

/// One value of a field: the field's own, or its element `index` if it is repeated (else -1).
ordered_json value_json(const Message& message, const FieldDescriptor* field, int index) {
  const auto* reflection = message.GetReflection();
  const auto get = [&](auto single, auto repeated) -> ordered_json {
    return index < 0 ? (reflection->*single)(message, field)
                     : (reflection->*repeated)(message, field, index);
  };
  using R = google::protobuf::Reflection;
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32: return get(&R::GetInt32, &R::GetRepeatedInt32);
    case FieldDescriptor::CPPTYPE_INT64: return get(&R::GetInt64, &R::GetRepeatedInt64);
    case FieldDescriptor::CPPTYPE_UINT32: return get(&R::GetUInt32, &R::GetRepeatedUInt32);
    case FieldDescriptor::CPPTYPE_UINT64: return get(&R::GetUInt64, &R::GetRepeatedUInt64);
    case FieldDescriptor::CPPTYPE_DOUBLE: return get(&R::GetDouble, &R::GetRepeatedDouble);
    case FieldDescriptor::CPPTYPE_FLOAT: return get(&R::GetFloat, &R::GetRepeatedFloat);
    case FieldDescriptor::CPPTYPE_BOOL: return get(&R::GetBool, &R::GetRepeatedBool);
    case FieldDescriptor::CPPTYPE_STRING: return get(&R::GetString, &R::GetRepeatedString);
    case FieldDescriptor::CPPTYPE_ENUM:
      return lower_case((index < 0 ? reflection->GetEnum(message, field)
                                   : reflection->GetRepeatedEnum(message, field, index))
                            ->name());
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return message_json(index < 0 ? reflection->GetMessage(message, field)
                                    : reflection->GetRepeatedMessage(message, field, index));
  }
  return nullptr;
}

ordered_json message_json(const Message& message) {
  ordered_json json = ordered_json::object();
  const auto* descriptor = message.GetDescriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const FieldDescriptor* field = descriptor->field(i);
    ordered_json& value = json[field->name()];
    if (field->is_repeated()) {
      value = ordered_json::array();
      const int size = message.GetReflection()->FieldSize(message, field);
      for (int at = 0; at < size; ++at) value.push_back(value_json(message, field, at));
    } else {
      value = value_json(message, field, -1);
    }
  }
  return json;
}

}  // namespace

ordered_json stats_json(const admin::Stats& stats) {
  return message_json(stats);
}

std::string json_text(const ordered_json& json, int indent) {
  return json.dump(indent, ' ', false, ordered_json::error_handler_t::replace);
}

}  // namespace booster::ctl

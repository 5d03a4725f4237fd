// What an action complains about.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "base/error.h"

namespace megabyte::test {

// The message of the Error that `action` throws, always one line; a test failure if it throws none.
std::string error_of(const auto& action) {
  try {
    action();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), testing::Not(testing::HasSubstr("\n")));
    return e.what();
  }
  ADD_FAILURE() << "no Error was thrown";
  return "";
}

}  // namespace megabyte::test

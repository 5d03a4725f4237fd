# plans/*.json inside the program, so that `megabyte compare --plan NAME` needs no file.
file(GLOB PLAN_FILES CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/plans/*.json)
set(PLAN_LIST "")
foreach(file ${PLAN_FILES})
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${file})
  get_filename_component(name ${file} NAME_WE)
  file(READ ${file} text)
  string(APPEND PLAN_LIST "    {\"${name}\", R\"PLAN(${text})PLAN\"},\n")
endforeach()
file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/shipped_plans.cpp @ONLY CONTENT [[
#include "compare/shipped_plans.h"

namespace megabyte {
namespace {

constexpr ShippedPlan kPlans[] = {
@PLAN_LIST@};

}  // namespace

std::span<const ShippedPlan> shipped_plans() { return kPlans; }

}  // namespace megabyte
]])

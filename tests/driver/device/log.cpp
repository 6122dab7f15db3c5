#include "log.h"

#include <vector>

#include "api.h"
#include "tasks.h"

namespace driver {

static const size_t MOST = 1 << 20;  // entries, as some tests never clear the log
static std::vector<Entry> entries;

void write_log(const Entry& entry) {
  if (entries.size() < MOST && !work_is_dropped()) entries.push_back(entry);
}

}  // namespace driver

using namespace driver;

extern "C" void driver_log_clear() {
  const Locked locked(lock);
  entries.clear();
}

extern "C" size_t driver_log_size() {
  const Locked locked(lock);
  return entries.size();
}

extern "C" const char* driver_log_entry(size_t number, void** stream, void** handle, const char** step,
                                        const char** name) {
  const Locked locked(lock);
  const Entry& entry = entries[number];
  *stream = entry.stream;
  *handle = entry.handle;
  *step = entry.step.c_str();
  *name = entry.name.c_str();
  return entry.kind.c_str();
}

// Queued work, and the order in which it runs.
#pragma once

#include <functional>
#include <memory>
#include <vector>

namespace driver {

typedef std::function<void()> Work;

struct Task {
  Work work;
  std::vector<std::shared_ptr<Task>> after;  // these run first
  int device;
  bool done = false;
  int asked = 0;  // how often somebody has asked whether it is done
};
typedef std::shared_ptr<Task> TaskPtr;

// Whether queued work never runs, so that only the host takes time.
bool work_is_dropped();

// Queues work, and runs what the order of the process wants run. Returns null, as for finished work, where
// work is dropped.
TaskPtr queue_task(int device, Work work, std::vector<TaskPtr> after);

// Runs a task and all that must run before it. Null and finished tasks are fine.
void run_task(const TaskPtr& task);

// Somebody asks whether a task is done. At times this runs one of those that it needs, so that whoever asks
// in a loop ends.
void ask_for(const TaskPtr& task);

// Runs all that is queued on a device: the newest first where the order is late.
void run_all(int device);

}  // namespace driver

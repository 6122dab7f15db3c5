// Queued work, and the order that it runs in.
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
  int asked = 0;  // how often the host has asked whether it is done
};
typedef std::shared_ptr<Task> TaskPtr;

// Whether all work is dropped, so that only the host takes time.
bool work_is_dropped();

// Queues work. Depending on DRIVER_ORDER, runs it now, runs some queued task, or drops it and returns null.
TaskPtr queue_task(int device, Work work, std::vector<TaskPtr> after);

// Runs a task, after the tasks that must run first. Does nothing if it is null or done.
void run_task(const TaskPtr& task);

// Called when the host asks whether a task is done. Every few times this runs one of the tasks that it needs,
// so a loop that asks will end.
void ask_for(const TaskPtr& task);

// Runs all tasks of a device. It starts with the newest, and runs others first only where they must.
void run_all(int device);

}  // namespace driver

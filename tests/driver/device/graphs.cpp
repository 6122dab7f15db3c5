// cudaGraph*: recorded work, which runs at each launch.
#include <cstdint>
#include <set>

#include "api.h"
#include "captures.h"
#include "log.h"

struct CUgraph_st {
  driver::RecordingPtr recording;
};

struct CUgraphExec_st {
  driver::RecordingPtr recording;
  driver::TaskPtr last = nullptr;  // the end of the last launch: the next launch follows it, on any stream
};

namespace driver {

static std::set<void*> graphs;

cudaGraph_t new_graph(const RecordingPtr& recording) {
  const cudaGraph_t graph = new CUgraph_st{recording};
  graphs.insert(graph);
  return graph;
}

}  // namespace driver

using namespace driver;

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long) {
  BEGIN_CALL;
  if (!graphs.count(graph)) return failed(cudaErrorInvalidValue);
  *out = new CUgraphExec_st{graph->recording};
  graphs.insert(*out);
  return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t graph, cudaStream_t) {
  BEGIN_CALL;
  return graphs.count(graph) ? cudaSuccess : failed(cudaErrorInvalidValue);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  BEGIN_CALL;
  if (!graphs.count(graph)) return failed(cudaErrorInvalidValue);
  if (!find_stream(stream)) return failed(cudaErrorInvalidResourceHandle);
  const RecordingPtr recording = graph->recording;
  for (const Step& step : recording->steps) {  // other streams' work may run between them
    for (const Work* part : {&step.work, &step.rest}) {
      if (!*part) continue;
      const Work work = [recording, part] { (*part)(); };
      if (const cudaError_t error = queue(stream, {GRAPH, "", work}, &graph->last)) return error;
    }
  }
  write_log({"graph", stream, graph, "", ""});
  return cudaSuccess;
}

// Stricter than CUDA: a thread that captures can't destroy a graph.
template <class Graph> static cudaError_t destroy(Graph* graph) {
  BEGIN_CALL;
  if (!graphs.count(graph)) return failed(cudaErrorInvalidValue);
  if (const cudaError_t error = check_unsafe_call()) return error;
  graphs.erase(graph);
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return destroy(graph); }

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return destroy(graph); }

// For Python: the number of a graph's steps, and the kind and name of one.
extern "C" int driver_graph_steps(cudaGraphExec_t graph) {
  const Locked locked(lock);
  return graphs.count(graph) ? static_cast<int>(graph->recording->steps.size()) : -1;
}

extern "C" const char* driver_graph_step(cudaGraphExec_t graph, int number, const char** name) {
  const Locked locked(lock);
  const Step& step = graph->recording->steps[number];
  *name = step.name.c_str();
  return step.kind;
}

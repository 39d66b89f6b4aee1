// Run, Stats and EmulatorError in Python. They belong to the module that has them: several may be imported, each with a
// machine of its own (tests/device/planted/planting.py).
#include <cxxabi.h>
#include <pybind11/stl.h>

#include <cstdlib>

#include "bind.h"
#include "module.h"

namespace emulator {
namespace {

py::dict dict_of(const Report& report) {
  py::dict all;
  all["kind"] = report.kind;
  all["message"] = report.message;
  all["site"] = report.site;
  all["thread"] = report.thread;
  all["block"] = py::make_tuple(report.block[0], report.block[1], report.block[2]);
  return all;
}

/// EmulatorError carries what a Report has, and `reports`, all that were collected.
void translate(const Error& error, py::handle type) {
  py::object raised = type(error.what());
  for (const auto& [name, value] : dict_of(error.first)) raised.attr(name) = value;
  py::list reports;
  for (const Report& report : error.all) reports.append(dict_of(report));
  raised.attr("reports") = reports;
  PyErr_SetObject(type.ptr(), raised.ptr());
}

/// As a compiler of either side spells it; what is no mangled name stays.
std::string demangled(const char* name) {
  int status = 0;
  char* const spelled = abi::__cxa_demangle(name, nullptr, nullptr, &status);
  const std::string found = status == 0 ? spelled : name;
  std::free(spelled);
  return found;
}

/// Tells another device of a launch. Every array of global memory is (name, address, bytes of a 16-byte boundary before
/// it, memory from there on).
void hand_over(const py::object& device, const EntryLaunch& launch) {
  py::list arrays;
  for (size_t i = 0; i < machine.arrays.count(); ++i) {
    const Array& array = machine.arrays[i];
    const size_t lead = array.begin % 16;
    const py::memoryview memory = py::memoryview::from_memory(
        reinterpret_cast<void*>(array.begin - lead), static_cast<py::ssize_t>(lead + array.bytes), !array.written);
    arrays.append(py::make_tuple(array.name, machine.arrays.address(i), lead, memory));
  }
  py::dict told;
  told["entry"] = launch.entry;
  told["kernel"] = demangled(launch.kernel);
  told["blocks"] = launch.blocks;
  told["threads"] = launch.threads;
  told["shared_bytes"] = launch.shared_bytes;
  told["argument"] = py::bytes(static_cast<const char*>(launch.argument), launch.argument_bytes);
  told["arrays"] = arrays;
  device(told);
}

}  // namespace

void bind_machine(py::module_& module) {
  static py::exception<Error> type(module, "EmulatorError");
  py::register_local_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const Error& error) {
      translate(error, type);
    }
  });
  py::class_<BankConflicts>(module, "BankConflicts", py::module_local())
      .def_property_readonly("site", [](const BankConflicts& self) { return self.site.text(); })
      .def_property_readonly("access", [](const BankConflicts& self) { return name_of(self.access); })
      .def_readonly("accesses", &BankConflicts::accesses)
      .def_readonly("extra_cycles", &BankConflicts::extra_cycles)
      .def("__repr__", [](const BankConflicts& self) {
        return self.site.text() + ": " + std::to_string(self.accesses) + " warps " + name_of(self.access) + ", " +
               std::to_string(self.extra_cycles) + " extra cycles";
      });
  py::class_<Stats>(module, "Stats", py::module_local())
      .def_readonly("blocks", &Stats::blocks)
      .def_readonly("barriers", &Stats::barriers)
      .def_readonly("collectives", &Stats::collectives)
      .def_readonly("matrix_products", &Stats::matrix_products)
      .def_readonly("matrix_loads", &Stats::matrix_loads)
      .def_readonly("copies", &Stats::copies)
      .def_readonly("bytes_copied", &Stats::bytes_copied)
      .def_readonly("global_bytes_read", &Stats::global_bytes_read)
      .def_readonly("global_bytes_written", &Stats::global_bytes_written)
      .def_readonly("shared_bytes_read", &Stats::shared_bytes_read)
      .def_readonly("shared_bytes_written", &Stats::shared_bytes_written)
      .def_readonly("switches", &Stats::switches)
      .def_readonly("reports", &Stats::reports)
      .def_readonly("bank_conflicts", &Stats::bank_conflicts);
  py::class_<Run>(
      module, "Run",
      "Options of launches (seed, races, banks), what was counted in them (stats), and who has the launches of "
      "entry points in the machine's place (device).",
      py::module_local())
      .def(py::init([](uint64_t seed, bool races, bool banks, const py::object& device) {
             Run run{{seed, races, banks}, {}, {}};
             if (!device.is_none()) run.device = [device](const EntryLaunch& launch) { hand_over(device, launch); };
             return run;
           }),
           py::kw_only(), py::arg("seed") = 0, py::arg("races") = true, py::arg("banks") = true,
           py::arg("device") = py::none())
      .def_readonly("stats", &Run::stats);
  module.def("demangled", &demangled, py::arg("name"));
}

}  // namespace emulator

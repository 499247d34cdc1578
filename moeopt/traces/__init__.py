from moeopt.traces.placement_csv import read_gpu_load_csv, write_gpu_load_csv, write_phy2log_csv
from moeopt.traces.placement_npz import write_placement_npz
from moeopt.traces.placement_sglang import write_placement_json
from moeopt.traces.placements import read_placement
from moeopt.traces.read import read_trace
from moeopt.traces.synthetic import generate
from moeopt.traces.trace import Trace

__all__ = [
    "Trace",
    "generate",
    "read_gpu_load_csv",
    "read_placement",
    "read_trace",
    "write_gpu_load_csv",
    "write_phy2log_csv",
    "write_placement_json",
    "write_placement_npz",
]

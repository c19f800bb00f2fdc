"""What a study will cost before any of it runs: operations, time, memory, disk, whether it fits. No torch."""

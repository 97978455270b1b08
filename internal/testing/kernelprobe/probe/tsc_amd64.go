package main

// tsc reads the time stamp counter.
func tsc() uint64

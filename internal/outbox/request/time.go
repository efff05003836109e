package request

import "time"

// ShowTime writes a time as people read it: UTC, to the millisecond.
func ShowTime(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000 UTC") }

//go:build !linux

package database

import "syscall"

// limitArrival does nothing: there is no such option here.
func limitArrival(string, string, syscall.RawConn) error { return nil }

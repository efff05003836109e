//go:build !linux

// Package wan is a long way within one machine, for tests. It needs Linux.
package wan

//go:build !linux

// Package alone runs a test once more in namespaces of its own. It needs Linux.
package alone

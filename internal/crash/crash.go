//go:build !crashpoints

// Package crash names the points between two durable steps, so that tests can
// kill the process there. Without the build tag crashpoints, At does nothing and
// is compiled away.
package crash

// At is a point at which the process may die.
func At(string) {}

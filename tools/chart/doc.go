// Package chart checks the Helm chart deploy/helm/flexworker without a cluster: `make chart`. It has no code beside its tests.
// It is a module of its own, so that Helm and Kubernetes stay out of the program's.
//
// Each set of values in the chart's folder ci is linted and rendered by Helm. Each document is then decoded strictly into the
// types of Kubernetes or of the operator, validated by kubeconform with the schemas in schemas, and held against the rules.
// TestFaults breaks the chart in many ways, and wants each found.
package chart

//go:generate go run ./schemas

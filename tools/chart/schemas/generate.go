// Command schemas writes the JSON schemas by which kubeconform checks what the chart renders: `go generate ./...` in
// tools/chart. Kubernetes publishes them nowhere as files. They are made of what the Go modules of Kubernetes and of the two
// operators contain: the description of the API that the server serves, and custom resource definitions.
//
// Only definitions that our kinds reach are written, without their prose. Everything not described is refused.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

// The versions are newer than what the chart needs at least: what is rendered has been there for long.
const (
	kubernetes = "k8s.io/kubernetes@v1.37.2"
	prometheus = "github.com/prometheus-operator/prometheus-operator@v0.85.0" // the latest that the Go proxy has
	keda       = "github.com/kedacore/keda/v2@v2.21.0"
)

// kinds of Kubernetes that the chart renders: the file of each, as kubeconform looks for it, and its definition.
var kinds = map[string]string{
	"deployment-apps-v1":            "io.k8s.api.apps.v1.Deployment",
	"job-batch-v1":                  "io.k8s.api.batch.v1.Job",
	"service-v1":                    "io.k8s.api.core.v1.Service",
	"poddisruptionbudget-policy-v1": "io.k8s.api.policy.v1.PodDisruptionBudget",
	"networkpolicy-networking-v1":   "io.k8s.api.networking.v1.NetworkPolicy",
	"ingress-networking-v1":         "io.k8s.api.networking.v1.Ingress",
}

// customKinds are those of operators, with the definition of each in the operator's module.
var customKinds = map[string][2]string{
	"podmonitor-monitoring-v1":            {prometheus, "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml"},
	"prometheusrule-monitoring-v1":        {prometheus, "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml"},
	"scaledobject-keda-v1alpha1":          {keda, "config/crd/bases/keda.sh_scaledobjects.yaml"},
	"triggerauthentication-keda-v1alpha1": {keda, "config/crd/bases/keda.sh_triggerauthentications.yaml"},
}

type object = map[string]any

func main() {
	if err := generate(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func generate() error {
	var api struct{ Definitions map[string]object }
	if err := readModule(kubernetes, "api/openapi-spec/swagger.json", &api); err != nil {
		return err
	}
	reached := object{}
	for file, name := range kinds {
		reach(api.Definitions, name, reached)
		if err := write(file, object{"$ref": "definitions.json#/definitions/" + name}); err != nil {
			return err
		}
	}
	if err := write("definitions", object{"definitions": reached}); err != nil {
		return err
	}
	for file, from := range customKinds {
		var crd struct {
			Spec struct {
				Versions []struct {
					Schema struct{ OpenAPIV3Schema object }
				}
			}
		}
		if err := readModule(from[0], from[1], &crd); err != nil {
			return err
		}
		if err := write(file, strict(crd.Spec.Versions[0].Schema.OpenAPIV3Schema).(object)); err != nil {
			return err
		}
	}
	return nil
}

// reach puts the definition of this name, and all that it refers to, into reached.
func reach(all map[string]object, name string, reached object) {
	if reached[name] != nil {
		return
	}
	definition := all[name]
	switch {
	case strings.HasSuffix(name, ".IntOrString"):
		definition = object{"type": []any{"string", "integer"}}
	case strings.HasSuffix(name, ".Quantity"):
		definition = object{"type": []any{"string", "number"}}
	}
	definition = strict(definition).(object)
	reached[name] = definition
	var follow func(any)
	follow = func(v any) {
		switch v := v.(type) {
		case object:
			if ref, ok := v["$ref"].(string); ok {
				reach(all, strings.TrimPrefix(ref, "#/definitions/"), reached)
			}
			for _, each := range v {
				follow(each)
			}
		case []any:
			for _, each := range v {
				follow(each)
			}
		}
	}
	follow(definition)
}

// strict is a schema without its prose, which refuses what it does not describe.
func strict(schema any) any {
	switch schema := schema.(type) {
	case []any:
		list := make([]any, len(schema))
		for i, each := range schema {
			list[i] = strict(each)
		}
		return list
	case object:
		to := object{}
		for key, value := range schema {
			switch {
			case key == "properties": // whose keys are names, not words of the schema
				properties := object{}
				for name, property := range value.(object) {
					properties[name] = strict(property)
				}
				to[key] = properties
			case key == "description", key == "example", key == "default", strings.HasPrefix(key, "x-kubernetes-"):
			default:
				to[key] = strict(value)
			}
		}
		if schema["x-kubernetes-int-or-string"] == true {
			to["type"] = []any{"string", "integer"}
			delete(to, "anyOf")
		}
		open := schema["additionalProperties"] != nil || schema["x-kubernetes-preserve-unknown-fields"] == true
		if schema["properties"] != nil && !open {
			to["additionalProperties"] = false
		}
		return to
	default:
		return schema
	}
}

// readModule decodes a file of a module, which it has Go download.
func readModule(module, file string, into any) error {
	out, err := exec.Command("go", "mod", "download", "-json", module).Output()
	if err != nil {
		return fmt.Errorf("%s: %w", module, err)
	}
	var at struct{ Dir string }
	if err := json.Unmarshal(out, &at); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(at.Dir, file))
	if err != nil {
		return err
	}
	return yaml.Unmarshal(text, into)
}

func write(file string, schema object) error {
	text, err := json.Marshal(schema)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join("schemas", file+".json"), append(text, '\n'), 0o644)
}

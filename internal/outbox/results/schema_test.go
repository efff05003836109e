package results_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"flexworker/docs/schema"
	"flexworker/internal/flex"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
)

// an object of docs/schema/result.json.
type object struct {
	Properties map[string]object
	Required   []string
	Items      *object
	Defs       map[string]object `json:"$defs"`
}

// TestSchemaHasEveryKey: docs/schema/result.json describes each key that a result has, as one that is always there, and no
// other. What is embedded are keys that only some results have.
func TestSchemaHasEveryKey(t *testing.T) {
	t.Parallel()
	var result object
	if err := json.Unmarshal(schema.Result, &result); err != nil {
		t.Fatal(err)
	}
	if result.Defs["faults"].Items == nil {
		t.Fatal("result.json has no faults")
	}
	for name, c := range map[string]struct {
		described object
		published reflect.Type
	}{
		"the result": {result, reflect.TypeFor[results.Result]()},
		"channel":    {result.Properties["channel"], reflect.TypeFor[flex.Channel]()},
		"routing":    {result.Properties["routing"], reflect.TypeFor[flex.Routing]()},
		"task":       {result.Properties["task"], reflect.TypeFor[results.Task]()},
		"error":      {result.Properties["error"], reflect.TypeFor[results.Error]()},
		"a fault":    {*result.Defs["faults"].Items, reflect.TypeFor[request.ShownFault]()},
	} {
		var keys, always, described []string
		for _, field := range reflect.VisibleFields(c.published) {
			key, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if field.Anonymous {
				continue
			}
			keys = append(keys, key)
			if len(field.Index) == 1 {
				always = append(always, key)
			}
		}
		for key := range c.described.Properties {
			described = append(described, key)
		}
		slices.Sort(keys)
		slices.Sort(always)
		slices.Sort(described)
		required := slices.Sorted(slices.Values(c.described.Required))
		if !slices.Equal(keys, described) || !slices.Equal(always, required) {
			t.Errorf("%s has the keys %v; described are %v, required %v", name, keys, described, required)
		}
	}
}

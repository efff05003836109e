package schema_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"flexworker/docs/schema"
	"flexworker/internal/testing/contract"
)

// asyncAPI is asyncapi.yaml as JSON.
func asyncAPI(t *testing.T) []byte {
	t.Helper()
	var document any
	if err := yaml.Unmarshal(schema.AsyncAPI, &document); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// asyncAPISchema is AsyncAPI's own schema. Whatever it refers to stands in the one file.
func asyncAPISchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	text, err := os.ReadFile("testdata/asyncapi-3.0.0.json")
	if err != nil {
		t.Fatal(err)
	}
	own, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(nowhere{})
	if err := c.AddResource("asyncapi.json", own); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("asyncapi.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// nowhere loads nothing: a schema that is not in the file is not looked for elsewhere.
type nowhere struct{}

func (nowhere) Load(url string) (any, error) { return nil, errors.New("is not in the file: " + url) }

// TestAsyncAPIIsValid: by AsyncAPI's own schema, which refuses what is not.
func TestAsyncAPIIsValid(t *testing.T) {
	t.Parallel()
	own, text := asyncAPISchema(t), asyncAPI(t)
	valid := func(text []byte) error {
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		return own.Validate(document)
	}
	if err := valid(text); err != nil {
		t.Errorf("asyncapi.yaml: %v", err)
	}
	for _, broken := range [][2]string{{`"action":"receive"`, `"action":"take"`}, {`"address":`, `"adress":`}, {`"version":"1.0.0"`, `"version":1`}} {
		changed := bytes.Replace(text, []byte(broken[0]), []byte(broken[1]), 1)
		if bytes.Equal(changed, text) {
			t.Errorf("asyncapi.yaml has no %s", broken[0])
		} else if valid(changed) == nil {
			t.Errorf("AsyncAPI's schema takes %s", broken[1])
		}
	}
}

// TestReferencesLead: each $ref of the three files leads to something within them.
func TestReferencesLead(t *testing.T) {
	t.Parallel()
	files := map[string]any{}
	for name, text := range map[string][]byte{"request.json": schema.Request, "result.json": schema.Result, "asyncapi.yaml": asyncAPI(t)} {
		var document any
		if err := json.Unmarshal(text, &document); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		files[name] = document
	}
	found := 0
	var walk func(in string, value any)
	walk = func(in string, value any) {
		switch value := value.(type) {
		case map[string]any:
			if ref, ok := value["$ref"].(string); ok {
				found++
				name, pointer, _ := strings.Cut(ref, "#")
				if name == "" {
					name = in
				}
				at, there := files[path.Clean(name)]
				for step := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
					if step == "" {
						continue
					}
					object, _ := at.(map[string]any)
					if at, there = object[step]; !there {
						break
					}
				}
				if !there {
					t.Errorf("%s: %s leads nowhere", in, ref)
				}
			}
			for _, member := range value {
				walk(in, member)
			}
		case []any:
			for _, element := range value {
				walk(in, element)
			}
		}
	}
	for name, document := range files {
		walk(name, document)
	}
	if found < 10 {
		t.Errorf("%d references were found", found)
	}
}

// TestAsyncAPIExamples: the examples of the messages are valid by the schemas of their payloads, and the outcomes of the
// subject are those of the body.
func TestAsyncAPIExamples(t *testing.T) {
	t.Parallel()
	type message struct {
		Payload struct {
			Schema map[string]string
			Ref    string `json:"$ref"`
		}
		Examples []struct{ Payload json.RawMessage }
	}
	var document struct {
		Channels map[string]struct {
			Parameters map[string]struct{ Enum []string }
		}
		Components struct{ Messages map[string]message }
	}
	if err := json.Unmarshal(asyncAPI(t), &document); err != nil {
		t.Fatal(err)
	}
	valid := map[string]func([]byte) error{"request.json": contract.Request, "result.json": contract.Result}
	examples := 0
	for name, m := range document.Components.Messages {
		check := valid[m.Payload.Schema["$ref"]]
		if own, ok := strings.CutPrefix(m.Payload.Ref, "#/components/schemas/"); ok {
			check = func(text []byte) error { return contract.Message(own, text) }
		}
		if check == nil {
			t.Errorf("the message %s has the payload %+v", name, m.Payload)
			continue
		}
		examples += len(m.Examples)
		for _, e := range m.Examples {
			if err := check(e.Payload); err != nil {
				t.Errorf("the message %s: %s: %v", name, e.Payload, err)
			}
		}
	}
	if examples < 5 {
		t.Errorf("%d examples were found", examples)
	}
	var result struct {
		Properties struct{ Outcome struct{ Enum []string } }
	}
	if err := json.Unmarshal(schema.Result, &result); err != nil {
		t.Fatal(err)
	}
	got, want := strings.Join(document.Channels["results"].Parameters["outcome"].Enum, " "), strings.Join(result.Properties.Outcome.Enum, " ")
	if got != want || want == "" {
		t.Errorf("asyncapi.yaml has the outcomes %s, result.json has %s", got, want)
	}
}

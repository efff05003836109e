package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// A spec is openapi.yaml as tests hold answers against it.
type spec struct {
	doc map[string]any

	mu      sync.Mutex // the compiler is for one at a time
	schemas *jsonschema.Compiler
}

const specURL = "https://flexworker.test/openapi.json"

func readSpec(t testing.TB) *spec {
	t.Helper()
	var parsed any
	if err := yaml.Unmarshal(document, &parsed); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(parsed)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	s := &spec{doc: doc.(map[string]any), schemas: jsonschema.NewCompiler()}
	s.schemas.DefaultDraft(jsonschema.Draft2020)
	s.schemas.AssertFormat()
	if err := s.schemas.AddResource(specURL, doc); err != nil {
		t.Fatal(err)
	}
	return s
}

// at follows a path through the document, and each $ref on it. It returns nil where the path leads nowhere, and the
// place at which it has ended.
func (s *spec) at(steps ...string) (value any, place string) {
	value = s.doc
	for i, step := range steps {
		object, ok := value.(map[string]any)
		if !ok {
			return nil, ""
		}
		value = object[step]
		place += "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(step)
		if object, ok := value.(map[string]any); ok {
			if ref, ok := object["$ref"].(string); ok {
				return s.at(append(strings.Split(strings.TrimPrefix(ref, "#/"), "/"), steps[i+1:]...)...)
			}
		}
	}
	return value, place
}

// valid holds a text against the schema at a place.
func (s *spec) valid(place string, text []byte) error {
	s.mu.Lock()
	schema, err := s.schemas.Compile(specURL + "#" + place)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return err
	}
	return schema.Validate(value)
}

// pathOf is the path of the document that a request goes to; "": there is none.
func (s *spec) pathOf(r *http.Request) string {
	got := strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), Prefix), "/")
	for path := range s.doc["paths"].(map[string]any) {
		want := strings.Split(path, "/")
		if slices.EqualFunc(got, want, func(g, w string) bool { return g == w || w == "{id}" }) {
			return path
		}
	}
	return ""
}

// holds says how an answer differs from what the document has for it.
func (s *spec) holds(r *http.Request, w *httptest.ResponseRecorder) error {
	path, method, status := s.pathOf(r), strings.ToLower(r.Method), fmt.Sprint(w.Code)
	if operation, _ := s.at("paths", path, method); operation == nil {
		if w.Code != http.StatusNotFound && w.Code != http.StatusMethodNotAllowed && w.Code != http.StatusUnauthorized && w.Code != http.StatusForbidden {
			return fmt.Errorf("%d of what the document does not have", w.Code)
		}
		return s.valid("/components/schemas/Problem", w.Body.Bytes())
	}
	if _, place := s.at("paths", path, method, "responses", status); place == "" || w.Code >= 400 {
		status = status[:1] + "XX"
	}
	media, _, _ := strings.Cut(w.Header().Get("Content-Type"), ";")
	schema, place := s.at("paths", path, method, "responses", status, "content", media, "schema")
	if schema == nil {
		return fmt.Errorf("%d with %s is not in the document", w.Code, media)
	}
	header, _ := s.at("paths", path, method, "responses", status, "headers", "ETag")
	must, _ := s.at("paths", path, method, "responses", status, "headers", "ETag", "required")
	if tag := w.Header().Get("ETag"); tag != "" && header == nil || tag == "" && must == true {
		return fmt.Errorf("ETag: %q", tag)
	}
	if media == "application/yaml" {
		return nil
	}
	return s.valid(place, w.Body.Bytes())
}

// TestDocumentIsOpenAPI: the document is one by OpenAPI's own schema, and every schema in it compiles.
func TestDocumentIsOpenAPI(t *testing.T) {
	t.Parallel()
	s := readSpec(t)
	text, err := os.ReadFile("testdata/openapi-3.1.schema.json") // of spec.openapis.org, 2022-10-07, under the Apache License 2.0
	if err != nil {
		t.Fatal(err)
	}
	own, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("https://spec.openapis.org/oas/3.1/schema/2022-10-07", own); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("https://spec.openapis.org/oas/3.1/schema/2022-10-07")
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(s.doc); err != nil {
		t.Errorf("%v", err)
	}
	all, _ := s.at("components", "schemas")
	for name := range all.(map[string]any) {
		if _, err := s.schemas.Compile(specURL + "#/components/schemas/" + name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDocumentHasAllRoutes: the document has each route with each of its methods, and no other; and each kind of
// problem.
func TestDocumentHasAllRoutes(t *testing.T) {
	t.Parallel()
	s := readSpec(t)
	var have, want []string
	for path, methods := range (&api{}).routes() {
		for method := range methods {
			want = append(want, strings.ToLower(method)+" "+path)
		}
	}
	for path, item := range s.doc["paths"].(map[string]any) {
		for method := range item.(map[string]any) {
			if method != "parameters" {
				have = append(have, method+" "+path)
			}
		}
	}
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		t.Errorf("the document has %q, the API %q", have, want)
	}
	types, _ := s.at("components", "schemas", "Problem", "properties", "type", "enum")
	listed := types.([]any)
	for kind := range kinds {
		if !slices.Contains(listed, any(problemType+kind)) {
			t.Errorf("the document does not have %s", kind)
		}
	}
	if len(listed) != len(kinds) {
		t.Errorf("the document has %d kinds of problems, the API %d", len(listed), len(kinds))
	}
}

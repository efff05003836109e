// Package contract holds texts against the published schemas, docs/schema: is this a request, a result, an answer, as the
// services around the worker are told that they look?
package contract

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"flexworker/docs/schema"
)

// Request says what makes text no request by docs/schema/request.json; nil: it is one.
func Request(text []byte) error { return validate(request, text) }

// Result says what makes text no result by docs/schema/result.json; nil: it is one.
func Result(text []byte) error { return validate(result, text) }

// Message says what makes text no payload of the message with this name of docs/schema/asyncapi.yaml, other than request
// and result; nil: it is one.
func Message(name string, text []byte) error {
	return validate(func() (*jsonschema.Schema, error) {
		all, err := messages()
		if err == nil && all[name] == nil {
			err = fmt.Errorf("asyncapi.yaml has no schema %s", name)
		}
		return all[name], err
	}, text)
}

// messages are the schemas of asyncapi.yaml itself.
var messages = sync.OnceValues(func() (map[string]*jsonschema.Schema, error) {
	var document struct {
		Components struct{ Schemas map[string]any }
	}
	if err := yaml.Unmarshal(schema.AsyncAPI, &document); err != nil {
		return nil, err
	}
	all := map[string]*jsonschema.Schema{}
	for name, described := range document.Components.Schemas {
		text, err := json.Marshal(described)
		if err != nil {
			return nil, err
		}
		if all[name], err = compile(name, text); err != nil {
			return nil, err
		}
	}
	return all, nil
})

var (
	request = sync.OnceValues(func() (*jsonschema.Schema, error) { return compile("request.json", schema.Request) })
	result  = sync.OnceValues(func() (*jsonschema.Schema, error) { return compile("result.json", schema.Result) })
)

// compile reads a schema. A format is held, as most validators of services can be told to.
func compile(name string, text []byte) (*jsonschema.Schema, error) {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource(name, document); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return c.Compile(name)
}

func validate(compiled func() (*jsonschema.Schema, error), text []byte) error {
	s, err := compiled()
	if err != nil {
		return err
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return err
	}
	return s.Validate(value)
}

// schemas writes a JSON schema for each kind of the Kubernetes API and of CustomResourceDefinitions, for kubeconform:
//
//	schemas FOLDER SWAGGER_JSON CRD_YAML...
//
// Each stands alone, and refuses fields that the kind does not have; the API server would ignore them. What it judges by other
// means than a schema (CEL rules, names that must be unique, ports in bounds) is not judged here.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

type object = map[string]any

const (
	metadata = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
	quantity = "io.k8s.apimachinery.pkg.api.resource.Quantity"
	inside   = "#/definitions/"
)

// What means the same in OpenAPI and in JSON schema, and holds no further schema. "format" is left out: no two agree on it.
var words = []string{
	"$ref", "enum", "maxItems", "maxLength", "maxProperties", "maximum", "minItems", "minLength", "minimum", "pattern", "required", "type",
}

func main() {
	if len(os.Args) < 3 {
		fail(fmt.Errorf("usage: schemas FOLDER SWAGGER_JSON CRD_YAML..."))
	}
	folder, swagger, crds := os.Args[1], os.Args[2], os.Args[3:]
	definitions := object{}
	kinds := map[string]object{}
	for name, definition := range read(swagger)["definitions"].(object) {
		definitions[name] = strict(definition.(object))
		// Those with several are no objects but what requests and answers are made of.
		if is, _ := definition.(object)["x-kubernetes-group-version-kind"].([]any); len(is) == 1 {
			kind := is[0].(object)
			kinds[file(kind["group"], kind["version"], kind["kind"])] = object{"$ref": inside + name}
		}
	}
	definitions[quantity] = object{"type": []string{"string", "number"}}
	for _, crd := range crds {
		spec := read(crd)["spec"].(object)
		for _, version := range spec["versions"].([]any) {
			version := version.(object)
			schema := strict(version["schema"].(object)["openAPIV3Schema"].(object))
			properties := schema["properties"].(object)
			properties["apiVersion"] = object{"type": "string"}
			properties["kind"] = object{"type": "string"}
			properties["metadata"] = object{"$ref": inside + metadata}
			kinds[file(spec["group"], version["name"], spec["names"].(object)["kind"])] = schema
		}
	}
	for name, schema := range kinds {
		used := object{}
		collect(schema, definitions, used)
		schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
		schema["definitions"] = used
		text, err := json.Marshal(schema)
		if err == nil {
			err = os.WriteFile(filepath.Join(folder, name), text, 0o644)
		}
		fail(err)
	}
}

// file is where kubeconform looks with `{{.ResourceKind}}{{.KindSuffix}}.json`.
func file(group, version, kind any) string {
	first, _, _ := strings.Cut(group.(string), ".")
	words := []string{kind.(string), first, version.(string)}
	if first == "" {
		words = []string{kind.(string), version.(string)}
	}
	return strings.ToLower(strings.Join(words, "-")) + ".json"
}

func strict(schema object) object {
	made := object{}
	for _, word := range words {
		if value, is := schema[word]; is {
			made[word] = value
		}
	}
	if schema["x-kubernetes-int-or-string"] == true || schema["format"] == "int-or-string" {
		made["type"] = []string{"integer", "string"}
	}
	if items, is := schema["items"].(object); is {
		made["items"] = strict(items)
	}
	if properties, is := schema["properties"].(object); is {
		all := object{}
		for name, property := range properties {
			all[name] = strict(property.(object))
		}
		made["properties"] = all
		made["additionalProperties"] = schema["x-kubernetes-preserve-unknown-fields"] == true
	}
	if others, is := schema["additionalProperties"].(object); is {
		made["additionalProperties"] = strict(others)
	}
	return made
}

// collect puts the definitions that a schema needs into used.
func collect(schema object, definitions, used object) {
	if name, is := schema["$ref"].(string); is {
		name = strings.TrimPrefix(name, inside)
		if _, known := used[name]; !known {
			used[name] = definitions[name]
			collect(definitions[name].(object), definitions, used)
		}
	}
	for _, word := range []string{"items", "additionalProperties"} {
		if inner, is := schema[word].(object); is {
			collect(inner, definitions, used)
		}
	}
	if properties, is := schema["properties"].(object); is {
		for _, property := range properties {
			collect(property.(object), definitions, used)
		}
	}
}

// read takes JSON too, which is YAML.
func read(path string) object {
	text, err := os.ReadFile(path)
	fail(err)
	document := object{}
	if strings.HasSuffix(path, ".json") {
		err = json.Unmarshal(text, &document)
	} else {
		err = yaml.Unmarshal(text, &document)
	}
	fail(err)
	return document
}

func fail(cause error) {
	if cause != nil {
		fmt.Fprintln(os.Stderr, "schemas:", cause)
		os.Exit(1)
	}
}

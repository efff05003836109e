package chart

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/yannh/kubeconform/pkg/validator"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	helm "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

const (
	root      = "../../"
	chartDir  = root + "deploy/helm/flexworker"
	namespace = "voice"
	hook      = "helm.sh/hook"
)

// sets are the names of the sets of values, without those that a person would have to make up.
var sets = []string{"minimal", "apikey", "everything", "plain", "narrow"}

// A release is what one set of values makes of the chart.
type release struct {
	values    common.Values
	notes     string
	documents []document
}

// A document is one rendered object: its text, and the object that it was decoded into.
type document struct {
	text   string
	object metav1.Object
}

// of are the release's objects of one type.
func of[T any](r release) []T {
	var all []T
	for _, d := range r.documents {
		if o, ok := d.object.(T); ok {
			all = append(all, o)
		}
	}
	return all
}

// newObject has a place for each kind that the chart may render. KEDA's kinds are not decoded into its types, which would link all
// of its webhooks: their schemas, which KEDA's server checks, refuse the same.
func newObject(kind metav1.TypeMeta) (metav1.Object, error) {
	switch kind.APIVersion + " " + kind.Kind {
	case "apps/v1 Deployment":
		return &appsv1.Deployment{}, nil
	case "batch/v1 Job":
		return &batchv1.Job{}, nil
	case "v1 Service":
		return &corev1.Service{}, nil
	case "policy/v1 PodDisruptionBudget":
		return &policyv1.PodDisruptionBudget{}, nil
	case "networking.k8s.io/v1 NetworkPolicy":
		return &networkingv1.NetworkPolicy{}, nil
	case "networking.k8s.io/v1 Ingress":
		return &networkingv1.Ingress{}, nil
	case "monitoring.coreos.com/v1 PodMonitor":
		return &monitoringv1.PodMonitor{}, nil
	case "monitoring.coreos.com/v1 PrometheusRule":
		return &monitoringv1.PrometheusRule{}, nil
	case "keda.sh/v1alpha1 ScaledObject", "keda.sh/v1alpha1 TriggerAuthentication":
		return &unstructured.Unstructured{}, nil
	default:
		return nil, fmt.Errorf("%s %s is no kind that this chart should render", kind.APIVersion, kind.Kind)
	}
}

// load reads the chart as Helm does.
func load(t *testing.T) *helm.Chart {
	t.Helper()
	slog.SetDefault(slog.New(slog.DiscardHandler)) // Helm mentions each symbolic link
	chart, err := loader.Load(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	return chart
}

// valuesOf reads a set of values.
func valuesOf(t *testing.T, set string) common.Values {
	t.Helper()
	values, err := common.ReadValuesFile(filepath.Join(chartDir, "ci", set+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return values
}

// render makes a release of the chart, each document of which is decoded as the server of Kubernetes does with
// fieldValidation=Strict: no field that is unknown, misspelt or there twice.
func render(chart *helm.Chart, values common.Values) (release, error) {
	all, err := util.ToRenderValues(chart, values, common.ReleaseOptions{Name: "flexworker", Namespace: namespace, Revision: 1, IsInstall: true}, nil)
	if err != nil {
		return release{}, fmt.Errorf("values: %w", err)
	}
	files, err := engine.Engine{Strict: true}.Render(chart, all)
	if err != nil {
		return release{}, fmt.Errorf("render: %w", err)
	}
	var r release
	var ok bool
	if r.values, ok = all["Values"].(common.Values); !ok {
		return release{}, errors.New("render: no values")
	}
	var names []string
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	var faults []error
	for _, name := range names {
		if strings.HasSuffix(name, "NOTES.txt") {
			r.notes = files[name]
			continue
		}
		for text := range strings.SplitSeq("\n"+files[name], "\n---\n") {
			text = strings.TrimSpace(text)
			if strings.HasSuffix(name, ".tpl") || text == "" {
				continue
			}
			object, err := decode(text)
			if err != nil {
				faults = append(faults, fmt.Errorf("decode: %s: %w", filepath.Base(name), err))
				continue
			}
			r.documents = append(r.documents, document{text, object})
		}
	}
	return r, errors.Join(faults...)
}

func decode(text string) (metav1.Object, error) {
	converted, err := yaml.YAMLToJSONStrict([]byte(text))
	if err != nil {
		return nil, err
	}
	var kind metav1.TypeMeta
	if err := json.UnmarshalCaseSensitivePreserveInts(converted, &kind); err != nil {
		return nil, err
	}
	object, err := newObject(kind)
	if err != nil {
		return nil, err
	}
	var into any = object
	if u, ok := object.(*unstructured.Unstructured); ok {
		into = &u.Object
	}
	faults, err := json.UnmarshalStrict(converted, into)
	return object, errors.Join(append(faults, err)...)
}

// newSchemas is kubeconform with our schemas: the server refuses what these refuse. It knows which fields are required.
func newSchemas(t *testing.T) validator.Validator {
	t.Helper()
	v, err := validator.New([]string{"schemas/{{ .ResourceKind }}{{ .KindSuffix }}.json"}, validator.Opts{Strict: true})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func validate(v validator.Validator, r release) error {
	var faults []error
	for _, d := range r.documents {
		for _, result := range v.Validate(d.object.GetName(), io.NopCloser(bytes.NewReader([]byte(d.text)))) {
			if result.Status != validator.Valid {
				faults = append(faults, fmt.Errorf("schema: %s: %w", d.object.GetName(), result.Err))
			}
		}
	}
	return errors.Join(faults...)
}

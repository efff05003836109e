package chart

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"
)

// rules are what has to be true of every release, one by one. Each says what breaks it, "" if nothing does.
var rules = []struct {
	name   string
	broken func(release) string
}{
	{"two replicas", twoReplicas},
	{"update", rolling},
	{"disruptions", disruptions},
	{"spread", spread},
	{"probes", probes},
	{"grace", grace},
	{"no privileges", noPrivileges},
	{"no service-account token", noToken},
	{"secrets are a directory", secretsDirectory},
	{"secrets are files", secretFiles},
	{"migration", migration},
	{"memory", memory},
	{"network", network},
	{"page", page},
	{"monitor", monitor},
	{"alerts", alerts},
	{"scaling", scaling},
	{"custom resources", customResources},
	{"settings", settings},
	{"namespace", inNamespace},
}

// deployment is the one that there has to be.
func deployment(r release) *appsv1.Deployment {
	if all := of[*appsv1.Deployment](r); len(all) == 1 {
		return all[0]
	}
	return &appsv1.Deployment{}
}

// pods are those of the workers and of the migration.
func pods(r release) map[string]corev1.PodTemplateSpec {
	all := map[string]corev1.PodTemplateSpec{"worker": deployment(r).Spec.Template}
	for _, job := range of[*batchv1.Job](r) {
		all[job.Name] = job.Spec.Template
	}
	return all
}

func worker(r release) corev1.Container {
	if c := deployment(r).Spec.Template.Spec.Containers; len(c) == 1 {
		return c[0]
	}
	return corev1.Container{}
}

func env(c corev1.Container, name string) string {
	for _, e := range c.Env {
		if e.Name == name {
			return e.Value
		}
	}
	return ""
}

// enabled says whether a part of the values is on.
func enabled(r release, part string) bool {
	on, _ := r.values.PathValue(part + ".enabled")
	return on == true
}

func selects(selector *metav1.LabelSelector, pod corev1.PodTemplateSpec) bool {
	s, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && !s.Empty() && s.Matches(labels.Set(pod.Labels))
}

// selectsWorkers: the selector of a budget, policy or monitor means the workers, and no migration.
func selectsWorkers(r release, what string, selector *metav1.LabelSelector) string {
	for name, pod := range pods(r) {
		if selects(selector, pod) != (name == "worker") {
			return fmt.Sprintf("%s: selects %s: %t", what, name, name != "worker")
		}
	}
	return ""
}

func twoReplicas(r release) string {
	want, _ := r.values["replicas"].(float64)
	got := deployment(r).Spec.Replicas
	switch {
	case enabled(r, "keda"):
		return "" // see scaling
	case got == nil || float64(*got) != want:
		return fmt.Sprintf("%v, want %v", got, want)
	}
	return ""
}

func rolling(r release) string {
	s := deployment(r).Spec.Strategy.RollingUpdate
	if s == nil || deployment(r).Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType || s.MaxUnavailable.IntValue() != 0 || s.MaxSurge.IntValue() != 1 {
		return fmt.Sprintf("%+v: a replica goes before a new one is ready", s)
	}
	return selectsWorkers(r, "deployment", deployment(r).Spec.Selector)
}

func disruptions(r release) string {
	all := of[*policyv1.PodDisruptionBudget](r)
	if len(all) != 1 || all[0].Spec.MaxUnavailable == nil || all[0].Spec.MaxUnavailable.String() != "1" {
		return fmt.Sprintf("want one budget with maxUnavailable 1, got %+v", all)
	}
	if policy := all[0].Spec.UnhealthyPodEvictionPolicy; policy == nil || *policy != policyv1.AlwaysAllow {
		return "in an outage no node can be drained"
	}
	return selectsWorkers(r, "budget", all[0].Spec.Selector)
}

func spread(r release) string {
	for _, c := range deployment(r).Spec.Template.Spec.TopologySpreadConstraints {
		// Kubernetes does not publish which words it takes, so that no schema has them.
		if c.TopologyKey == "kubernetes.io/hostname" && c.MaxSkew == 1 && c.WhenUnsatisfiable == corev1.ScheduleAnyway {
			return selectsWorkers(r, "spread", c.LabelSelector)
		}
	}
	return "not over hosts"
}

func probes(r release) string {
	c := worker(r)
	if len(c.Ports) != 1 || ":"+strconv.Itoa(int(c.Ports[0].ContainerPort)) != env(c, "ADMIN_ADDR") {
		return fmt.Sprintf("ports %+v at ADMIN_ADDR=%s", c.Ports, env(c, "ADMIN_ADDR"))
	}
	for path, probes := range map[string][]*corev1.Probe{"/healthz": {c.LivenessProbe, c.StartupProbe}, "/readyz": {c.ReadinessProbe}} {
		for _, p := range probes {
			if p == nil || p.HTTPGet == nil || p.HTTPGet.Path != path || p.HTTPGet.Port.String() != c.Ports[0].Name {
				return fmt.Sprintf("%s: %+v", path, p)
			}
		}
	}
	return ""
}

func grace(r release) string {
	want, err := time.ParseDuration(env(worker(r), "SHUTDOWN_GRACE"))
	got := deployment(r).Spec.Template.Spec.TerminationGracePeriodSeconds
	if err != nil || got == nil || time.Duration(*got)*time.Second != want+15*time.Second {
		return fmt.Sprintf("%v s, SHUTDOWN_GRACE is %v", *got, want)
	}
	if worker(r).Lifecycle != nil {
		return "a hook takes of the grace"
	}
	return ""
}

func noPrivileges(r release) string {
	for name, pod := range pods(r) {
		p := pod.Spec.SecurityContext
		if p == nil || p.RunAsNonRoot == nil || !*p.RunAsNonRoot || p.RunAsUser == nil || *p.RunAsUser != 65532 || p.RunAsGroup == nil || *p.RunAsGroup != 65532 ||
			p.SeccompProfile == nil || p.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			return fmt.Sprintf("%s: %+v", name, p)
		}
		if pod.Spec.HostNetwork || pod.Spec.HostPID || pod.Spec.HostIPC || len(pod.Spec.InitContainers) > 0 {
			return name + ": a part of the host, or a container that is not looked at here"
		}
		for _, c := range pod.Spec.Containers {
			s := c.SecurityContext
			if s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation ||
				s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(s.Capabilities.Add) > 0 || s.Privileged != nil ||
				s.RunAsUser != nil || s.SeccompProfile != nil {
				return fmt.Sprintf("%s: %+v", name, s)
			}
		}
	}
	return ""
}

func noToken(r release) string {
	for name, pod := range pods(r) {
		if auto := pod.Spec.AutomountServiceAccountToken; auto == nil || *auto || pod.Spec.ServiceAccountName != "" {
			return name
		}
		if links := pod.Spec.EnableServiceLinks; links == nil || *links {
			return name + ": variables of other services look like settings"
		}
	}
	return ""
}

// secretsDirectory: one directory, whose files change when a Secret does.
func secretsDirectory(r release) string {
	for name, pod := range pods(r) {
		for _, c := range pod.Spec.Containers {
			if len(c.VolumeMounts) != 1 || c.VolumeMounts[0].MountPath != "/run/secrets" || !c.VolumeMounts[0].ReadOnly ||
				c.VolumeMounts[0].SubPath != "" || c.VolumeMounts[0].SubPathExpr != "" {
				return fmt.Sprintf("%s: %+v", name, c.VolumeMounts)
			}
		}
		if v := pod.Spec.Volumes; len(v) != 1 || v[0].Projected == nil || v[0].Projected.DefaultMode == nil || *v[0].Projected.DefaultMode != 0o440 ||
			pod.Spec.SecurityContext.FSGroup == nil || *pod.Spec.SecurityContext.FSGroup != 65532 {
			return fmt.Sprintf("%s: %+v: user 65532 alone must be able to read it", name, v)
		}
	}
	return ""
}

// secretFiles: each secret is the file that its variable names, from the key of the Secret that the values name.
func secretFiles(r release) string {
	for name, pod := range pods(r) {
		files := map[string]string{}
		for _, source := range pod.Spec.Volumes[0].Projected.Sources {
			for _, item := range source.Secret.Items {
				files["/run/secrets/"+item.Path] = source.Secret.Name + "/" + item.Key
			}
		}
		for _, e := range pod.Spec.Containers[0].Env {
			if slices.Contains([]string{"DATABASE_URL", "TWILIO_AUTH_TOKEN", "TWILIO_API_SECRET", "ADMIN_TOKEN", "ADMIN_READ_TOKEN"}, e.Name) {
				return name + ": " + e.Name + " is in the environment"
			}
			if !strings.HasPrefix(e.Value, "/run/secrets/") {
				continue
			}
			from, _ := r.values.Table("secrets." + e.Name)
			if name != "worker" && e.Name == "DATABASE_URL_FILE" {
				from, _ = r.values.Table("migrate.databaseURL")
			}
			if want := fmt.Sprintf("%v/%v", from["secret"], from["key"]); files[e.Value] != want {
				return fmt.Sprintf("%s: %s is %q, want %q", name, e.Name, files[e.Value], want)
			}
			delete(files, e.Value)
		}
		if len(files) > 0 {
			return fmt.Sprintf("%s: no variable names %v", name, files)
		}
	}
	secrets, _ := r.values.Table("secrets")
	for name := range secrets {
		if env(worker(r), name) == "" {
			return name + " is not set"
		}
	}
	return ""
}

func migration(r release) string {
	if env(worker(r), "MIGRATE") != "false" {
		return "the workers migrate"
	}
	jobs := of[*batchv1.Job](r)
	if len(jobs) == 0 && !enabled(r, "migrate") {
		return ""
	}
	if len(jobs) != 1 || jobs[0].Annotations[hook] != "pre-install,pre-upgrade" || jobs[0].Annotations["helm.sh/hook-delete-policy"] != "before-hook-creation" {
		return "there is not one Job before install and upgrade"
	}
	job := jobs[0].Spec.Template.Spec
	if !slices.Equal(job.Containers[0].Args, []string{"migrate", "up"}) || job.Containers[0].Image != worker(r).Image {
		return "it does not run `worker migrate up` of this version"
	}
	sources := func(pod corev1.PodSpec) string { return pod.Volumes[0].Projected.Sources[0].Secret.String() }
	if sources(job) == sources(deployment(r).Spec.Template.Spec) {
		return "it has the address of the worker's role"
	}
	return ""
}

func memory(r release) string {
	for name, pod := range pods(r) {
		limits, requests := pod.Spec.Containers[0].Resources.Limits, pod.Spec.Containers[0].Resources.Requests
		if limits.Memory().Value() < 256<<20 || requests.Memory().Cmp(*limits.Memory()) != 0 || !limits.Cpu().IsZero() {
			return fmt.Sprintf("%s: %v of %v", name, requests, limits)
		}
	}
	return ""
}

func network(r release) string {
	policies := of[*networkingv1.NetworkPolicy](r)
	if !enabled(r, "networkPolicy") {
		if len(policies) > 0 {
			return "there is one"
		}
		return ""
	}
	for name, pod := range pods(r) {
		n := 0
		for _, p := range policies {
			if !selects(&p.Spec.PodSelector, pod) {
				continue
			}
			n++
			if len(p.Spec.PolicyTypes) != 2 {
				return name + ": not both ways"
			}
			if name != "worker" && (len(p.Spec.Ingress) > 0 || p.Annotations[hook] == "" || p.Annotations["helm.sh/hook-weight"] != "-1") {
				return name + ": it may be reached, or its Job comes first"
			}
			open := map[string]bool{}
			for _, rule := range p.Spec.Egress {
				for _, port := range rule.Ports {
					open[fmt.Sprintf("%s %s", *port.Protocol, port.Port)] = true
				}
			}
			if !open["UDP 53"] || !open["TCP 53"] || !open["TCP 5432"] {
				return fmt.Sprintf("%s reaches %v alone", name, slices.Sorted(maps.Keys(open)))
			}
		}
		if n != 1 {
			return fmt.Sprintf("%s has %d policies", name, n)
		}
	}
	return ""
}

// page: the Service leads to the workers, ready or not, and the Ingress to the Service.
func page(r release) string {
	services := of[*corev1.Service](r)
	if len(services) != 1 || !services[0].Spec.PublishNotReadyAddresses || services[0].Spec.Ports[0].TargetPort.String() != worker(r).Ports[0].Name {
		return fmt.Sprintf("services %+v", services)
	}
	if s := selectsWorkers(r, "service", &metav1.LabelSelector{MatchLabels: services[0].Spec.Selector}); s != "" {
		return s
	}
	for _, ingress := range of[*networkingv1.Ingress](r) {
		for _, rule := range ingress.Spec.Rules {
			to := rule.HTTP.Paths[0].Backend.Service
			if to.Name != services[0].Name || to.Port.Name != services[0].Spec.Ports[0].Name || rule.Host == "" {
				return fmt.Sprintf("%q leads to %+v", rule.Host, to)
			}
		}
	}
	return ""
}

func monitor(r release) string {
	for _, m := range of[*monitoringv1.PodMonitor](r) {
		end := m.Spec.PodMetricsEndpoints[0]
		interval, err := time.ParseDuration(string(end.Interval))
		if end.Path != "/metrics" || end.Port == nil || *end.Port != worker(r).Ports[0].Name || err != nil || interval > time.Minute {
			return fmt.Sprintf("%+v", end)
		}
		if job := end.RelabelConfigs[0]; job.TargetLabel != "job" || job.Replacement == nil || !strings.Contains(*job.Replacement, "flexworker") {
			return fmt.Sprintf("the alerts would not know the job %+v", job)
		}
		return selectsWorkers(r, "monitor", &m.Spec.Selector)
	}
	return ""
}

// alerts: the rules are those of deploy/prometheus, with an address before the path of each runbook.
func alerts(r release) string {
	for _, got := range of[*monitoringv1.PrometheusRule](r) {
		text, err := os.ReadFile(root + "deploy/prometheus/alerts.yaml")
		if err != nil {
			return err.Error()
		}
		var want monitoringv1.PrometheusRuleSpec
		if err := yaml.UnmarshalStrict(text, &want); err != nil {
			return err.Error()
		}
		base, _ := r.values.PathValue("prometheusRule.runbookBase")
		for g := range want.Groups {
			for i := range want.Groups[g].Rules {
				want.Groups[g].Rules[i].Annotations["runbook_url"] = fmt.Sprint(base, want.Groups[g].Rules[i].Annotations["runbook_url"])
			}
		}
		if !reflect.DeepEqual(got.Spec, want) || len(want.Groups[0].Rules) < 20 {
			return "they are not those of deploy/prometheus/alerts.yaml"
		}
	}
	return ""
}

func scaling(r release) string {
	if !enabled(r, "keda") {
		return ""
	}
	if deployment(r).Spec.Replicas != nil {
		return "the Deployment sets the number of replicas as well"
	}
	var scaled, auth unstructured.Unstructured
	for _, u := range of[*unstructured.Unstructured](r) {
		if u.GetKind() == "ScaledObject" {
			scaled = *u
		} else {
			auth = *u
		}
	}
	least, _, _ := unstructured.NestedInt64(scaled.Object, "spec", "minReplicaCount")
	target, _, _ := unstructured.NestedString(scaled.Object, "spec", "scaleTargetRef", "name")
	triggers, _, _ := unstructured.NestedSlice(scaled.Object, "spec", "triggers")
	if least < 1 || target != deployment(r).Name || len(triggers) != 1 {
		return fmt.Sprintf("at least %d of %q, by %v", least, target, triggers)
	}
	trigger, _ := triggers[0].(map[string]any)
	query, _, _ := unstructured.NestedString(trigger, "metadata", "query")
	from, _, _ := unstructured.NestedString(trigger, "authenticationRef", "name")
	if !strings.HasSuffix(query, " FROM outbox_wanted_replicas") || from == "" || from != auth.GetName() {
		return fmt.Sprintf("by %q, as %q", query, from)
	}
	return ""
}

// customResources are there only where the values ask for them.
func customResources(r release) string {
	n := len(of[*monitoringv1.PodMonitor](r))*1 + len(of[*monitoringv1.PrometheusRule](r))*10 + len(of[*unstructured.Unstructured](r))*100 + len(of[*networkingv1.Ingress](r))*1000
	want := 0
	for part, value := range map[string]int{"podMonitor": 1, "prometheusRule": 10, "keda": 200, "ingress": 1000} {
		if enabled(r, part) {
			want += value
		}
	}
	if n != want {
		return fmt.Sprintf("%d, want %d", n, want)
	}
	return ""
}

// settings: the environment has each that the values name, written as the worker reads it.
func settings(r release) string {
	table, _ := r.values.Table("settings")
	for name, value := range table {
		want := fmt.Sprint(value)
		if number, ok := value.(float64); ok {
			want = strconv.FormatFloat(number, 'f', -1, 64)
		}
		at := slices.IndexFunc(worker(r).Env, func(e corev1.EnvVar) bool { return e.Name == name })
		if at < 0 || worker(r).Env[at].Value != want {
			return fmt.Sprintf("%s is not %q", name, want)
		}
	}
	return ""
}

func inNamespace(r release) string {
	for _, d := range r.documents {
		o := d.object
		if o.GetNamespace() != namespace || o.GetName() == "" || o.GetLabels()["app.kubernetes.io/instance"] != "flexworker" {
			return fmt.Sprintf("%T %s: %s %v", o, o.GetName(), o.GetNamespace(), o.GetLabels())
		}
	}
	return ""
}

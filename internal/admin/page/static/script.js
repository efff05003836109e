// What the page can do without this script: everything. This adds times of this browser's zone, ages, buttons that copy,
// and regions that are fetched anew when what they show has changed.
'use strict';

const every = 3000; // milliseconds between two pulses, give or take a fifth
const longest = 30000; // between two pulses that fail
const resting = 4000; // the pointer is at work in a region for so long after it moved there

// skew is how far this browser's clock is behind the server's, in milliseconds.
let skew = 0;

const find = (selector, root = document) => [...root.querySelectorAll(selector)];

// Times and ages

const zone = new Intl.DateTimeFormat(undefined, {
	hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23', timeZoneName: 'short',
});
const day = new Intl.DateTimeFormat(undefined, {month: 'short', day: 'numeric'});

function local(at) {
	if (at.getTimezoneOffset() === 0) return '';
	const otherDay = at.getDate() !== at.getUTCDate();
	return (otherDay ? day.format(at) + ' ' : '') + zone.format(at);
}

function age(at) {
	const seconds = Math.round((Date.now() + skew - at.getTime()) / 1000);
	if (seconds < 0) return 'in ' + span(-seconds);
	return span(seconds) + ' ago';
}

function span(seconds) {
	if (seconds < 60) return seconds + ' s';
	if (seconds < 3600) return Math.floor(seconds / 60) + ' min';
	if (seconds < 172800) return Math.floor(seconds / 3600) + ' h ' + Math.floor(seconds % 3600 / 60) + ' min';
	return Math.floor(seconds / 86400) + ' days';
}

function showTimes(root) {
	for (const time of find('time[datetime]', root)) {
		const at = new Date(time.dateTime);
		const text = [local(at), 'age' in time.dataset ? age(at) : ''].filter(Boolean).join(', ');
		if (!text) continue;
		let beside = time.nextElementSibling;
		if (!beside?.classList.contains('local')) {
			beside = document.createElement('span');
			beside.className = 'local';
			time.after(' ', beside);
		}
		if (beside.textContent !== `(${text})`) beside.textContent = `(${text})`;
	}
}

// Copying

function showCopying(root) {
	for (const button of find('button[data-copy]', root)) button.hidden = false;
}

async function copy(button) {
	const text = button.dataset.copy;
	let done = false;
	try {
		await navigator.clipboard.writeText(text); // over https, and on this machine
		done = true;
	} catch {
		const field = document.createElement('textarea');
		field.value = text;
		document.body.append(field);
		field.select();
		done = document.execCommand('copy');
		field.remove();
		button.focus();
	}
	button.textContent = done ? 'Copied' : 'Select it, and copy it by hand';
	setTimeout(() => { button.textContent = 'Copy'; }, 2000);
}

document.addEventListener('click', (event) => {
	const button = event.target.closest('button[data-copy]');
	if (button) copy(button);
});

// A table that is shown as cards says less to a screen reader in some browsers, unless its parts say what they are.
function nameTables(root) {
	const roles = {table: 'table', thead: 'rowgroup', tbody: 'rowgroup', tr: 'row', td: 'cell', 'thead th': 'columnheader', 'tbody th': 'rowheader'};
	for (const table of find('table.cards', root)) {
		table.setAttribute('role', 'table');
		for (const [selector, role] of Object.entries(roles)) {
			for (const part of find(selector, table)) part.setAttribute('role', role);
		}
	}
}

// A form is sent once, however often its button is pressed.
document.addEventListener('submit', (event) => {
	const form = event.target;
	if (form.method !== 'post') return;
	if (form.dataset.sent) event.preventDefault();
	form.dataset.sent = 'yes';
});
addEventListener('pageshow', () => { for (const form of find('form[data-sent]')) delete form.dataset.sent; });

function dress(root) {
	showTimes(root);
	showCopying(root);
	nameTables(root);
}

// Regions

let moved = 0; // when the pointer moved, or a button of it was pressed, last
for (const what of ['pointermove', 'pointerdown']) document.addEventListener(what, () => { moved = Date.now(); }, {passive: true});

// busy says whether the person is at work in a region: then it stays as it is.
function busy(region) {
	if (region.contains(document.activeElement)) return true;
	if (region.matches(':hover') && Date.now() - moved < resting) return true;
	const selection = getSelection();
	if (selection && !selection.isCollapsed && region.contains(selection.anchorNode)) return true;
	return find('input, textarea, select', region).some(changed);
}

function changed(field) {
	if (field.type === 'checkbox') return field.checked !== field.defaultChecked;
	if (field.tagName === 'SELECT') return find('option', field).some((o) => o.selected !== o.defaultSelected) && find('option[selected]', field).length > 0;
	return field.type !== 'hidden' && field.value !== field.defaultValue;
}

function put(fresh) {
	const region = document.getElementById(fresh.id);
	if (!region || busy(region)) return;
	const open = find('details[open][id]', region).map((d) => d.id);
	dress(fresh);
	region.replaceChildren(...fresh.childNodes);
	region.className = fresh.className;
	region.dataset.mark = fresh.dataset.mark;
	for (const id of open) {
		const details = document.getElementById(id);
		if (details) details.open = true;
	}
	if (region.id !== 'bar') {
		region.classList.add('fresh');
		region.addEventListener('animationend', () => region.classList.remove('fresh'), {once: true});
	}
}

async function fetchAnew(names) {
	const address = new URL(location.href);
	address.hash = '';
	for (const name of names) address.searchParams.append('region', name);
	const response = await fetch(address, {signal: AbortSignal.timeout(15000)});
	if (response.redirected) return signedOut();
	if (!response.ok) throw new Error(String(response.status));
	const parsed = new DOMParser().parseFromString(await response.text(), 'text/html');
	for (const fresh of find('[data-region]', parsed)) put(document.adoptNode(fresh));
}

// The pulse

let etag = '';
let marks = {};
let wait = every;
let timer = 0;
let since = '';

function lost(text) {
	const line = document.getElementById('lost');
	if (!line) return;
	if (line.hidden !== !text) line.hidden = !text;
	if (line.textContent !== text) line.textContent = text;
}

function signedOut() {
	stopped = true;
	lost('You are signed out. Load the page again to sign in.');
}

let stopped = false;

async function pulse() {
	const address = new URL('pulse', location.href);
	const id = new URL(location.href).searchParams.get('id');
	if (id) address.searchParams.set('id', id);
	const response = await fetch(address, {headers: etag ? {'If-None-Match': etag} : {}, signal: AbortSignal.timeout(15000)});
	if (response.status === 401 || response.status === 403) return signedOut();
	if (response.status === 200) {
		etag = response.headers.get('ETag') ?? '';
		marks = await response.json();
	} else if (response.status !== 304) {
		throw new Error(String(response.status));
	}
	const stale = find('[data-region]').filter((region) => !busy(region) &&
		region.dataset.of.split(' ').map((name) => marks[name] ?? '').join('.') !== region.dataset.mark);
	if (stale.length > 0) await fetchAnew(stale.map((region) => region.dataset.region));
}

async function beat() {
	clearTimeout(timer);
	if (stopped || document.visibilityState !== 'visible') return;
	try {
		await pulse();
		wait = every;
		since = '';
		if (!stopped) lost('');
	} catch {
		since ||= new Date().toLocaleTimeString();
		wait = Math.min(wait * 2, longest);
		lost(`The worker has not answered since ${since}. What you see may be old.`);
	}
	showTimes(document); // ages grow
	clearTimeout(timer);
	timer = setTimeout(beat, wait * (0.8 + 0.4 * Math.random()));
}

// A browser that comes from another site does not send its cookie at first. It does with this question.
async function goOn() {
	const response = await fetch('pulse');
	const link = document.querySelector('#again a');
	if (response.ok && link) location.replace(link.href);
}

function begin() {
	const asOf = document.querySelector('.title time');
	if (asOf) skew = new Date(asOf.dateTime).getTime() - Date.now();
	dress(document);
	if (document.querySelector('#again a')) {
		goOn().catch(() => {});
		return;
	}
	if (!document.getElementById('bar')) return;
	document.addEventListener('visibilitychange', beat);
	timer = setTimeout(beat, every * Math.random());
}

begin();

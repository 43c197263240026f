# The sections of scripts/verbs.sh for what is granted in turn, handed out, told and kept, for
# transactions, and for looking after resources; sourced by it, never run.

verbs_lock() {
    local l=verbs/lock
    try 1 '' lock status $l
    try 0 'lock '$l' [1-9]*' lock run $l -- sh -c 'echo lock $MARGAY_LOCK_NAME $MARGAY_FENCE_TOKEN'
    try 7 '' lock run $l -- sh -c 'exit 7'
    try 0 'v*' lock run $l@1 -- sh -c '"$0" txn "{\"check\":\"lock\",\"name\":\"verbs/lock@1\",
        \"token\":$MARGAY_FENCE_TOKEN}"' "$MARGAY"
    try 1 '' txn '{"check":"lock","name":"verbs/lock@1","token":1}'
    try 1 '' lock status $l
    hold '[1-9]*' lock run $l -- sh -c 'echo $MARGAY_FENCE_TOKEN; exec sleep 600'
    try 0 '{"session":*,"token":'"$(head -n 1 "$work/hold")"',"waiting":0}' lock status $l -o json
    try 1 '' lock run $l --wait 10ms -- true
    release
    try 0 '' lock run $l --wait 10s -- true
    try 2 '' lock run $l -- /no/such/program
}

verbs_rwlock() {
    local l=verbs/rwlock
    try 1 '' rwlock status $l
    hold '[1-9]*' rwlock run $l -- sh -c 'echo $MARGAY_FENCE_TOKEN; exec sleep 600'
    try 0 '{"readers":1,"token":null,"waiting":0,"writer":null}' rwlock status $l -o json
    try 0 'beside' rwlock run $l --wait 10ms -- echo beside
    try 1 '' rwlock run $l --write --wait 10ms -- true
    release
    hold '[1-9]*' rwlock run $l --write -- sh -c 'echo $MARGAY_FENCE_TOKEN; exec sleep 600'
    try 0 '{"readers":0,"token":'"$(head -n 1 "$work/hold")"',*}' rwlock status $l -o json
    try 1 '' rwlock run $l --wait 10ms -- true
    release
}

verbs_semaphore() {
    local s=verbs/semaphore
    try 1 '' semaphore status $s
    hold 'two' semaphore run $s --permits 2 --take 2 -- sh -c 'echo two; exec sleep 600'
    try 0 '{"available":0,"holders":1,"permits":2,"waiting":0}' semaphore status $s -o json
    try 1 '' semaphore run $s --wait 10ms -- true
    try 0 'PERMITS *BEFORE *3 *2' semaphore resize $s 3
    try 0 'third' semaphore run $s --wait 10s -- echo third
    try 2 '' semaphore run $s --take 9 -- true
    release
    try 0 '' semaphore run $s --take 3 --wait 10s -- true
}

verbs_barrier() {
    local b=verbs/barrier
    try 1 '' barrier status $b
    try 1 '' barrier wait $b --parties 2 --wait 10ms
    try 0 '{"parties":2,"waiting":0}' barrier status $b -o json
    listen "$work/barrier" barrier wait $b
    until_out '*"waiting":1*' barrier status $b -o json
    try 0 '[1-9]*' barrier wait $b
    heard "$work/barrier" "$out"
    listen "$work/barrier" barrier wait $b
    until_out '*"waiting":1*' barrier status $b -o json
    try 0 '' barrier reset $b
    heard "$work/barrier" '*E0309*'
    try 1 '' barrier reset $b/none
}

verbs_latch() {
    local l=verbs/latch
    try 1 '' latch status $l
    try 1 '' latch wait $l --count 3 --wait 10ms
    try 0 '2' latch count-down $l
    listen "$work/latch" latch wait $l
    until_out '{"left":2,"waiting":1}' latch status $l -o json
    try 0 '0' latch count-down $l --by 2
    ended "${listeners[$work/latch]}"
    heard "$work/latch" ''
    try 0 '' latch wait $l
    try 0 '0' latch count-down $l
}

verbs_election() {
    local e=verbs/election one two
    try 1 '' election leader $e
    listen "$work/observe" election observe $e
    settle "$work/observe" "election run $e --data MARK -- true" "election leader $e"
    hold '[1-9]*' election run $e --data one -- sh -c 'echo $MARGAY_FENCE_TOKEN; exec sleep 600'
    one=$held
    try 0 '{"candidate":*,"data":"one",*,"waiting":0}' election leader $e -o json
    listen "$work/two" election run $e --data two -- sleep 600
    two=${listeners[$work/two]}
    until_out '{"candidate":*,"data":"two",*}' election candidates $e -o jsonl
    out=${out#*:}
    candidate=${out%%,*}
    try 0 '' election promote $e "$candidate"
    try 0 '' election anoint $e "$candidate"
    try 0 '{"candidate":'"$candidate"',"data":"two",*}' election leader $e -o json
    try 0 '' election evict $e "$candidate"
    try 1 '' election evict $e 1
    try 1 '' election leader $e
    # They were told, and their commands with them.
    ended "$one"
    ended "$two"
    try 5 '' election run $e --wait 10s -- sh -c 'exit 5'
    heard "$work/observe" '*term *one*term *two*vacant*'
}

verbs_queue() {
    local q=verbs/queue task
    try 1 '' queue status $q
    try 1 '' queue poll $q
    try 0 '[1-9]*' queue offer $q first --deliveries 2
    try 0 'first' queue poll $q
    listen "$work/queue" queue watch $q
    settle "$work/queue" "queue offer $q MARK" "queue poll $q"
    try 0 '[1-9]*' queue offer $q a
    try 0 '{"task":*}' queue offer $q b -o json
    task=${out#*:}
    task=${task%\}}
    try 0 'a' queue peek $q
    try 0 '{"value":"a"}' queue poll $q -o json
    try 0 '' queue contains $q "$task"
    try 0 '' queue remove $q "$task"
    try 1 '' queue remove $q "$task"
    try 1 '' queue contains $q "$task"
    try 0 '[1-9]*' queue offer $q c --delay 1h
    try 0 '{"dead":0,"delayed":1,"leased":0,"ready":0,"waiting":0}' queue status $q -o json
    try 0 '1' queue clear $q
    try 0 '[1-9]*' queue offer $q d
    try 0 'd 1' queue work $q --idle 10ms -- sh -c 'cat; echo " $MARGAY_TASK_DELIVERIES"'
    try 0 '[1-9]*' queue offer $q bad
    try 0 '*"given back"* *"given back"*' queue work $q --idle 300ms --retry-after 1ms -o json -- false
    try 0 '{"deliveries":2,"task":*,"value":"bad"}' queue dead $q -o jsonl
    task=${out#*task\":}
    task=${task%%,*}
    try 0 '' queue revive $q "$task"
    try 1 '' queue revive $q "$task"
    try 0 '' queue work $q --idle 10ms -- true
    heard "$work/queue" 'offered * a offered * b removed * a removed * b offered * c cleared *died * bad removed * bad'
}

verbs_group() {
    local g=verbs/group id
    try 1 '' group status $g
    try 1 '' group send $g early
    listen "$work/changes" group watch $g
    settle "$work/changes" "group join $g --id MARK -- true" "group status $g"
    hold 'n1' group join $g --id n1 --data here
    try 0 '\[{"data":"here","id":"n1","messages":0,"number":*,"session":*}\]' group members $g -o json
    try 1 '' group join $g --id n1 --wait 10ms -- true
    try 2 '' group join $g --id :1 -- true
    try 0 '[1-9]*' group send $g hello
    try 0 '{"message":*}' group send $g later --to n1 --within 1m -o json
    try 1 '' group send $g later --to n2
    try 0 '{"asked":0,"bytes":10,"homeless":0,"members":1,"messages":2,"waiting":0}' group status $g -o json
    try 4 '' group ask $g 'anybody?' --to n1 --wait 100ms
    release
    # What was for any waits for the next; what was for n1 is over.
    until_out '*"homeless":1,"members":0*' group status $g -o json
    listen "$work/serve" group serve $g --id n2 --count 3 -- sh -c 'cat; echo " by $MARGAY_MEMBER_ID"'
    until_out '*"id":"n2"*' group members $g -o json
    try 0 'work by n2' group ask $g work
    input=all
    try 0 '\[{"answer":"all by n2","id":"n2","outcome":"answered"}\]' group ask $g --all -o json
    input=''
    heard "$work/changes" 'joined n1 here left n1 here joined n2 left n2'
    listen "$work/one" group watch $g --count 1
    stir "${listeners[$work/one]}" group join $g --id n3 -- true
    heard "$work/one" '* n3'
    listen "$work/serve" group serve $g --count 2 -- sh -c 'exit 7'
    until_out '*"id":":*' group members $g -o json
    try 1 '' group ask $g fly
    try 1 'ID *OUTCOME *ANSWER *failed *exit code 7' group ask $g fly --all
    hold ':[1-9]*' group join $g -- sh -c 'echo $MARGAY_MEMBER_ID; exec sleep 600'
    id=$(head -n 1 "$work/hold")
    try 0 '' group leave $g "$id"
    try 1 '' group leave $g "$id"
    release
    try 0 '{"asked":0,"bytes":0,*}' group status $g -o json
}

verbs_topic() {
    local t=verbs/topic
    try 0 '[1-9]*' topic publish $t early
    listen "$work/topic" topic subscribe $t --after 0 --count 3
    listen "$work/keys" topic subscribe $t --after 0 --prefix b --count 1 -o jsonl
    try 0 '{"position":*}' topic publish $t one --key a1 -o json
    try 0 '[1-9]*' topic publish $t two --key b1
    heard "$work/topic" 'early one two'
    heard "$work/keys" '{"key":"b1","position":*,"value":"two"}'
}

verbs_journal() {
    local j=verbs/journal
    try 1 '' journal status $j
    try 1 '' journal read $j
    listen "$work/journal" journal follow $j --from 1 --count 5
    try 0 '1' journal append $j one
    try 0 '{"position":2}' journal append $j two three -o json
    try 1 '4' journal append $j late --at 3
    try 0 '4' journal append $j four --at 4
    try 0 'POSITION *RECORD *1 *one *4 *four' journal read $j
    try 0 '{"position":2,"record":"two","time_us":*}' journal read $j --from 2 --limit 1 -o jsonl
    try 0 '{"bytes":15,"first":1,"next":5}' journal status $j -o json
    try 0 '3' journal trim $j 3
    try 1 '' journal read $j --from 2
    try 1 '' journal follow $j --from 2
    try 0 'three four' journal follow $j --from 3 --count 2
    input=$'five\n' try 0 '5' journal append $j
    heard "$work/journal" 'one two three four five'
    try 0 '1' journal append $j/short 1 2 3 --keep-records 2
    try 0 '{"bytes":2,"first":2,"next":4}' journal status $j/short -o json
    try 2 '' journal append $j/bad 1 --keep-records 0
    try 2 '' journal append $j/bad 1 --keep-age 0s
}

verbs_txn() {
    local t=verbs/txn add='{"do":"add","name":"verbs/txn@1","by":5}'
    try 0 'v*' txn "$add" '{"do":"put","name":"verbs/txn/map@1","key":"k","value":"v"}'
    try 0 '{"committed":true,*}' txn '{"check":"counter","name":"verbs/txn@1","equals":5}' "$add" -o json
    try 1 '' txn '{"check":"counter","name":"verbs/txn@1","equals":5}' "$add"
    try 1 '{"check":1,"committed":false}' txn '{"check":"map","name":"verbs/txn/map@1","key":"k","equals":"v"}' \
        '{"check":"counter","name":"verbs/txn@1","equals":5}' "$add" -o json
    try 0 '10' counter get $t@1
    try 2 '' txn "$add" '{"do":"add","name":"verbs/txn@0","by":5}'
    try 2 '' txn '{"do":"dance","name":"verbs/txn@1"}'
}

verbs_manage() {
    local m=verbs/manage
    try 1 '' describe $m
    try 1 '' watch $m
    try 0 'v*' value set $m one
    try 0 'NAME *TYPE *GROUP *ID *'$m' *value*' ls $m
    try 0 '\[{"group":*,"id":*,"name":"'$m'","type":"value"}\]' ls $m -o json
    try 0 '' ls $m --type lock
    try 0 '{*"name":"'$m'",*"size":1,"type":"value",*}' describe $m -o json
    follow "$work/manage" watch $m --count 1
    stir "$following" value set $m two
    followed "$work/manage" 'changed'
    try 0 '\[{"deleted":true,"name":"'$m'"}\]' delete $m -o json
    try 1 '' delete $m
}

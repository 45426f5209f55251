CREATE TABLE teams(id INTEGER PRIMARY KEY, name TEXT, floor INTEGER);
CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT, team_id INTEGER, salary INTEGER, hired TEXT, boss_id INTEGER);
INSERT INTO teams VALUES
  (1,'Design',2),
  (2,'Support',1),
  (3,'Finance',3),
  (4,'Legal',3);
INSERT INTO people VALUES
  (1,'Awa',1,5200,'2018-03-01',NULL),
  (2,'Bo',1,3900,'2021-06-15',1),
  (3,'Cyril',2,2800,'2020-01-10',1),
  (4,'Dana',2,3100,'2022-09-01',3),
  (5,'Eli',3,4500,'2019-11-20',1),
  (6,'Fay',NULL,3000,'2023-02-01',5);
